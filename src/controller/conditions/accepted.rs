//! Whether the declaration can be served as it is written.

use super::{
    finding::{Finding, lines},
    reason::ConditionReason,
    situation::{Situation, Topic, name_of},
};
use crate::translate::{Problem, Severity};

pub fn accepted(situation: &Situation) -> Finding {
    let mut refused = situation.problems(Topic::Declaration, Severity::Refused).peekable();
    let Some(first) = refused.peek() else {
        let in_replicas = situation.told_by_pods(|served| &served.here);
        let in_replicas = in_replicas.map(|(sentence, pods)| match pods.trim_start() {
            "" => sentence.clone(),
            pods => format!("{pods}: {sentence}"),
        });
        return otherwise(
            ConditionReason::Accepted,
            "what is declared can be served",
            situation,
            Topic::Declaration,
            in_replicas,
        );
    };
    let reason = name_of(first.reason);
    Finding::no(reason, lines(refused.map(Problem::to_string).chain(whole(situation))))
}

pub fn resolved_refs(situation: &Situation) -> Finding {
    let mut refused = situation.problems(Topic::References, Severity::Refused).peekable();
    let Some(first) = refused.peek() else {
        return otherwise(
            ConditionReason::ResolvedRefs,
            "everything that is referred to exists",
            situation,
            Topic::References,
            [],
        );
    };
    let reason = name_of(first.reason);
    Finding::no_or_pending(situation.references_deferred_until(), reason, lines(refused))
}

/// All is well, but for what somebody should look at.
fn otherwise(
    reason: ConditionReason,
    all_well: &str,
    situation: &Situation,
    topic: Topic,
    more: impl IntoIterator<Item = String>,
) -> Finding {
    let warnings = lines(situation.problems(topic, Severity::Warning).map(Problem::to_string).chain(more));
    Finding::yes(reason, if warnings.is_empty() { all_well.to_owned() } else { warnings })
}

/// What all replicas remember of a time when nothing was wrong.
fn whole(situation: &Situation) -> Option<String> {
    let remembered: Option<Vec<i64>> = situation.served().map(|(_, served)| served.whole).collect();
    let generation = remembered?.into_iter().min()?;
    let older = generation < situation.identity.generation;
    older.then(|| format!("last fully applied generation: {generation}"))
}

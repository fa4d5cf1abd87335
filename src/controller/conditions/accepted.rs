//! The conditions Accepted and ResolvedRefs: the declaration can be served as written.

use super::{
    finding::{Finding, lines},
    input::{StatusInput, Topic, name_of},
    reason::ConditionReason,
};
use crate::translate::{Problem, Severity};

pub fn accepted(input: &StatusInput) -> Finding {
    let mut refused = input.problems(Topic::Declaration, Severity::Refused).peekable();
    let Some(first) = refused.peek() else {
        let in_replicas = input.reported_by_pods(|served| &served.here);
        let in_replicas = in_replicas.map(|(sentence, pods)| match pods.trim_start() {
            "" => sentence.clone(),
            pods => format!("{pods}: {sentence}"),
        });
        return otherwise(
            ConditionReason::Accepted,
            "the declaration is valid",
            input,
            Topic::Declaration,
            in_replicas,
        );
    };
    let reason = name_of(first.reason);
    Finding::no(reason, lines(refused.map(Problem::to_string).chain(whole(input))))
}

pub fn resolved_refs(input: &StatusInput) -> Finding {
    let mut refused = input.problems(Topic::References, Severity::Refused).peekable();
    let Some(first) = refused.peek() else {
        return otherwise(ConditionReason::ResolvedRefs, "all references are resolved", input, Topic::References, []);
    };
    let reason = name_of(first.reason);
    Finding::no_or_pending(input.references_deferred_until(), reason, lines(refused))
}

/// True; the warnings are the message.
fn otherwise(
    reason: ConditionReason,
    all_well: &str,
    input: &StatusInput,
    topic: Topic,
    more: impl IntoIterator<Item = String>,
) -> Finding {
    let warnings = lines(input.problems(topic, Severity::Warning).map(Problem::to_string).chain(more));
    Finding::yes(reason, if warnings.is_empty() { all_well.to_owned() } else { warnings })
}

/// The generation that all replicas last applied fully.
fn whole(input: &StatusInput) -> Option<String> {
    let remembered: Option<Vec<i64>> = input.served().map(|(_, served)| served.whole).collect();
    let generation = remembered?.into_iter().min()?;
    let older = generation < input.identity.generation;
    older.then(|| format!("last fully applied generation: {generation}"))
}

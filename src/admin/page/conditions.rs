use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use super::{
    html::{Column, marked, table, text},
    listed_problem::ListedProblem,
};
use crate::api::ConditionState;

/// Writes the conditions of a load balancer in the words of its status.
pub fn write_conditions(page: &mut String, conditions: &[Condition]) {
    if conditions.is_empty() {
        return;
    }
    let columns = [Column::Text("condition"), Column::Text("status"), Column::Text("reason"), Column::Text("message")];
    table(
        page,
        columns,
        conditions.iter().map(|condition| {
            let class = match ConditionState::of(condition) {
                ConditionState::AsDesired => "good",
                ConditionState::Warning => "warning",
                ConditionState::Fault => "bad",
            };
            let message: Vec<String> = condition.message.split('\n').map(text).collect();
            [marked(class, &condition.type_), text(&condition.status), text(&condition.reason), message.join("<br>")]
        }),
    );
}

/// The problem that the condition `Ready` has.
pub fn not_ready(conditions: &[Condition]) -> Option<ListedProblem> {
    let ready = conditions.iter().find(|condition| condition.type_ == "Ready")?;
    let sentence = format!("{}: {}", ready.reason, ready.message.replace('\n', "; "));
    match ConditionState::of(ready) {
        ConditionState::AsDesired => None,
        ConditionState::Warning => Some(ListedProblem::warning(sentence)),
        ConditionState::Fault => Some(ListedProblem::error(sentence)),
    }
}

//! Rules for the published schema, in CEL: the API server evaluates them, and answers with their messages.
//!
//! Whoever has no API server is told the same by the translation. Only rules about what a cluster has of its own (the
//! kept Service, fields that cannot be changed) are here alone.
//!
//! The server bounds what rules may cost, from the limits of all that they look at. A list that a rule needs twice is
//! bound to a name by way of a list of one: `[list].all(name, …)`.

use kube::core::Rule;

/// What a duration looks like, so that no rule asks for the length of a text that is none.
pub(super) const DURATION: &str = "^([0-9]{1,5}(h|m|s|ms)){1,4}$";

fn where_duration(rule: &str) -> String {
    format!("!self.matches('{DURATION}') || {rule}")
}

pub(super) fn at_least(least: &str) -> Rule {
    Rule::new(where_duration(&format!("duration(self) >= duration('{least}')")))
        .message(&*format!("out of range: write at least {least}"))
}

pub(super) fn at_most(most: &str) -> Rule {
    Rule::new(where_duration(&format!("duration(self) <= duration('{most}')")))
        .message(&*format!("out of range: write at most {most}"))
}

pub(super) fn within(least: &str, most: &str) -> Rule {
    let rule = format!("(duration(self) >= duration('{least}') && duration(self) <= duration('{most}'))");
    Rule::new(where_duration(&rule)).message(&*format!("out of range: write {least} to {most}"))
}

pub(super) fn whole_seconds() -> Rule {
    Rule::new(where_duration("duration(self).getMilliseconds() % 1000 == 0"))
        .message("not a whole number of seconds: write for example 15s")
}

/// Of two durations next to each other, the second of which has a default where it gives way to nothing.
pub(super) struct Order {
    pub short: &'static str,
    pub long: &'static str,
    pub long_default: Option<&'static str>,
}

impl Order {
    /// Blames the short one.
    pub fn not_longer(self) -> Rule {
        let Self { short, long, .. } = self;
        self.rule().message(&*format!("longer than {long}: write at most that")).field_path(format!(".{short}"))
    }

    /// Blames the long one.
    pub fn not_shorter(self) -> Rule {
        let Self { short, long, .. } = self;
        self.rule().message(&*format!("shorter than {short}: write at least that")).field_path(format!(".{long}"))
    }

    fn rule(&self) -> Rule {
        let Self { short, long, long_default } = self;
        let (unless, long) = match long_default {
            Some(default) => (format!("!has(self.{short})"), format!("(has(self.{long}) ? self.{long} : '{default}')")),
            None => (format!("!has(self.{short}) || !has(self.{long})"), format!("self.{long}")),
        };
        Rule::new(format!(
            "{unless} || [{long}].all(long, !long.matches('{DURATION}') || !self.{short}.matches('{DURATION}') || \
             duration(self.{short}) <= duration(long))"
        ))
    }
}

/// What a check of one type asks is not part of a check of another.
pub(super) fn block_of_type(block: &str, type_: &str) -> Rule {
    Rule::new(format!("!has(self.{block}) || self.type == '{type_}'"))
        .message(&*format!("{block} is for checks of type {type_}: write `type: {type_}`, or leave it out"))
        .field_path(format!(".{block}"))
}

pub(super) fn password_of_a_user() -> Rule {
    Rule::new("!has(self.passwordRef) || has(self.user)")
        .message("passwordRef requires user: set `user` or remove `passwordRef`")
        .field_path(".passwordRef")
}

/// Several entries of a list tell themselves apart by their names.
pub(super) fn named_where_several(list: &str) -> Rule {
    Rule::new("size(self) == 1 || self.all(entry, has(entry.name))")
        .message(&*format!("a name is missing: with several {list} write a name for each"))
}

/// No two entries of a list have the same value in this field, where they have one.
pub(super) fn unique(field: &str, message: &str) -> Rule {
    Rule::new(format!(
        "[self.filter(entry, has(entry.{field})).map(entry, entry.{field})].all(values, \
         values.all(value, values.exists_one(other, other == value)))"
    ))
    .message(message)
}

/// Clients that no other route is for can go only one way.
pub(super) fn one_default_route() -> Rule {
    Rule::new("size(self.filter(r, !has(r.serverNames) || size(r.serverNames) == 0)) <= 1")
        .message("two routes have no serverNames: write some for one of them")
}

pub(super) fn distinct_server_names() -> Rule {
    Rule::new(
        "self.all(r, !has(r.serverNames) || \
         r.serverNames.all(name, self.exists_one(other, has(other.serverNames) && name in other.serverNames)))",
    )
    .message("two routes have the same server name: leave it out of one of them")
}

pub(super) fn unchangeable(field: &str) -> Rule {
    Rule::new("self == oldSelf")
        .message(&*format!("{field} cannot be changed: make a new object, or write what it was before"))
}

/// What goes by clients' addresses is declared in no listener that may see nodes' addresses instead, unless somebody has
/// thought of it and written the policy.
pub(super) fn unless_addresses_are_nodes(what_goes: &str, nothing_declared: &str) -> Rule {
    Rule::new(format!(
        "!has(self.service) || self.service.type != 'NodePort' || has(self.service.externalTrafficPolicy) || \
         {nothing_declared}"
    ))
    .message(&*format!(
        "{what_goes} on client addresses, which a Service of type NodePort hides: write `externalTrafficPolicy: \
         Local` to keep them (then only nodes with a proxy accept connections), `Cluster` to use the addresses of \
         nodes, or proxyProtocol"
    ))
    .field_path(".service")
}

/// Keys that Kubernetes takes for labels or annotations.
pub(super) fn qualified_keys(what: &str) -> Rule {
    Rule::new("self.all(key, !format.qualifiedName().validate(key).hasValue())").message(&*format!(
        "not a valid key for {what}: write for example example.com/team, with at most 63 letters, digits, dashes, \
         dots and underscores after the slash"
    ))
}

/// Labels or annotations that are not the controller's.
pub(super) fn foreign_keys() -> Rule {
    Rule::new("self.all(key, !key.startsWith('tcplb.io/') && key != 'app.kubernetes.io/managed-by')")
        .message("keys of tcplb.io/ and app.kubernetes.io/managed-by are set by the controller: remove them")
}

pub(super) fn label_values() -> Rule {
    Rule::new("self.all(key, !format.labelValue().validate(self[key]).hasValue())")
        .message("not a valid label value: write at most 63 letters, digits, dashes, dots and underscores")
}

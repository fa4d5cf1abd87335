//! Rules for the published schema, in CEL. The API server evaluates them and answers with their messages.
//!
//! The translation reports the same mistakes without an API server. Rules about cluster features (the managed Service,
//! immutable fields) exist only here.
//!
//! The API server limits the cost of rules, which it estimates from the limits of the fields that they read. A rule
//! that reads a list twice binds it to a name through a list of one element: `[list].all(name, …)`.

use kube::core::Rule;

/// The pattern of a duration. Rules match it before they convert a text, so that they never convert an invalid one.
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

/// A pair of durations: the short one must not exceed the long one. The long one may have a default.
pub(super) struct DurationOrder {
    pub short: &'static str,
    pub long: &'static str,
    pub long_default: Option<&'static str>,
}

impl DurationOrder {
    /// Reports a violation at the short duration.
    pub fn not_longer(self) -> Rule {
        let Self { short, long, .. } = self;
        self.rule()
            .message(&*format!("longer than {long}: write at most the value of {long}"))
            .field_path(format!(".{short}"))
    }

    /// Reports a violation at the long duration.
    pub fn not_shorter(self) -> Rule {
        let Self { short, long, .. } = self;
        self.rule()
            .message(&*format!("shorter than {short}: write at least the value of {short}"))
            .field_path(format!(".{long}"))
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

/// Refuses the settings of one type of check in a check of another type.
pub(super) fn block_of_type(block: &str, type_: &str) -> Rule {
    Rule::new(format!("!has(self.{block}) || self.type == '{type_}'"))
        .message(&*format!("{block} requires type {type_}: write `type: {type_}`, or remove `{block}`"))
        .field_path(format!(".{block}"))
}

pub(super) fn password_of_a_user() -> Rule {
    Rule::new("!has(self.passwordRef) || has(self.user)")
        .message("passwordRef requires user: set `user` or remove `passwordRef`")
        .field_path(".passwordRef")
}

/// Requires a name in each entry of a list with several entries.
pub(super) fn named_where_several(list: &str) -> Rule {
    Rule::new("size(self) == 1 || self.all(entry, has(entry.name))")
        .message(&*format!("a name is missing: several {list} require a name for each"))
}

/// Requires distinct values of a field in the entries of a list. Absent values are ignored.
pub(super) fn unique(field: &str, message: &str) -> Rule {
    Rule::new(format!(
        "[self.filter(entry, has(entry.{field})).map(entry, entry.{field})].all(values, \
         values.all(value, values.exists_one(other, other == value)))"
    ))
    .message(message)
}

/// Refuses names that a TLS client cannot request: labels of more than 63 characters, or a number as the last label.
pub(super) fn requestable_server_name() -> Rule {
    Rule::new("!self.matches('[^.]{64}|(^|[.])[0-9]+$') || isIP(self)").message(
        "not a server name that can be requested: write labels of at most 63 characters, the last one not a number",
    )
}

/// Permits at most one route without server names.
pub(super) fn one_default_route() -> Rule {
    Rule::new("size(self.filter(r, !has(r.serverNames) || size(r.serverNames) == 0)) <= 1")
        .message("two routes have no serverNames: set serverNames in one of them")
}

pub(super) fn distinct_server_names() -> Rule {
    Rule::new(
        "self.all(r, !has(r.serverNames) || \
         r.serverNames.all(name, self.exists_one(other, has(other.serverNames) && name in other.serverNames)))",
    )
    .message("two routes have the same server name: remove it from one of them")
}

pub(super) fn unchangeable(field: &str) -> Rule {
    Rule::new("self == oldSelf")
        .message(&*format!("{field} is immutable: restore the previous value, or create a new object"))
}

/// Refuses settings that depend on client addresses behind a Service of type NodePort, which may hide them, unless
/// externalTrafficPolicy is set explicitly.
pub(super) fn unless_addresses_are_nodes(what_depends: &str, nothing_declared: &str) -> Rule {
    Rule::new(format!(
        "!has(self.service) || self.service.type != 'NodePort' || has(self.service.externalTrafficPolicy) || \
         {nothing_declared}"
    ))
    .message(&*format!(
        "{what_depends} on client addresses, which a Service of type NodePort hides: set `externalTrafficPolicy: \
         Local` to preserve them (only nodes with a proxy then accept connections), `Cluster` to use the addresses \
         of nodes, or set `proxyProtocol`"
    ))
    .field_path(".service")
}

/// Requires valid keys of labels or annotations.
pub(super) fn qualified_keys(what: &str) -> Rule {
    Rule::new("self.all(key, !format.qualifiedName().validate(key).hasValue())").message(&*format!(
        "not a valid key for {what}: write for example example.com/team, with at most 63 letters, digits, dashes, \
         dots and underscores after the slash"
    ))
}

/// Refuses labels and annotations that the controller sets.
pub(super) fn foreign_keys() -> Rule {
    Rule::new("self.all(key, !key.startsWith('tcplb.io/') && key != 'app.kubernetes.io/managed-by')")
        .message("keys of tcplb.io/ and app.kubernetes.io/managed-by are set by the controller: remove them")
}

pub(super) fn label_values() -> Rule {
    Rule::new("self.all(key, !format.labelValue().validate(self[key]).hasValue())")
        .message("not a valid label value: write at most 63 letters, digits, dashes, dots and underscores")
}

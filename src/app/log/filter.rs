//! The filter of the log, and the file that changes it while the process runs.

use std::{
    env::VarError,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use tracing::{Level, enabled, info, level_filters::LevelFilter, warn};
use tracing_subscriber::{EnvFilter, filter::Directive, reload};

use crate::{printable::limited, source::text_of_file};

/// Targets that are disabled unless the filter names them, or a beginning of their names. The Kubernetes client logs
/// each failed attempt; the watches already report their errors once.
const DISABLED_TARGETS: [&str; 2] = ["kube_client", "kube_runtime"];
const DEFAULT_LEVEL: &str = "info";
/// The maximum length of the file, in bytes.
const MAX_FILTER: u64 = 16 << 10;
/// The maximum length of a filter in a message, in bytes.
const MAX_QUOTED: usize = 200;
/// The interval at which the file is read. Unlike inotify, reading works on every file system and in every sandbox.
const READ_INTERVAL: Duration = Duration::from_secs(1);

/// The correction of an invalid filter.
const REMEDY: &str = "write a level (error, warn, info, debug, trace or off) or directives, for example \
                      `info,tcplb::upstream=debug`";

/// The filter of RUST_LOG. If it is invalid, the default filter and the problem.
pub fn filter_of_environment() -> (EnvFilter, Option<String>) {
    filter_of_variable(std::env::var("RUST_LOG"))
}

fn filter_of_variable(variable: Result<String, VarError>) -> (EnvFilter, Option<String>) {
    let filter = match variable {
        Ok(text) if !text.trim().is_empty() => parse(&text),
        Ok(_) | Err(VarError::NotPresent) => parse(DEFAULT_LEVEL),
        Err(VarError::NotUnicode(_)) => Err("it is not text in UTF-8".to_owned()),
    };
    match filter {
        Ok(filter) => (filter, None),
        Err(problem) => (EnvFilter::new(with_disabled_targets(&[DEFAULT_LEVEL])), Some(problem)),
    }
}

/// Logs the problem of RUST_LOG.
pub fn report_environment(problem: &str) {
    warn!("cannot use RUST_LOG: {problem}; {REMEDY}. The level {DEFAULT_LEVEL} is in use");
}

/// A filter in the syntax of RUST_LOG. A name alone must be a level or a module, and a name with a level a module: the
/// syntax also accepts any other target, so that a misspelt level or separator would disable the whole log.
fn parse(text: &str) -> Result<EnvFilter, String> {
    if text.is_empty() {
        return Err("the file is empty".to_owned());
    }
    // The parser refuses spaces. A comma at the end does no harm.
    let directives: Vec<&str> = text.split(',').map(str::trim).filter(|directive| !directive.is_empty()).collect();
    directives.iter().try_for_each(|directive| check_directive(directive))?;
    let filter = EnvFilter::builder().parse(with_disabled_targets(&directives));
    filter.map_err(|error| format!("`{}`: {error}", limited(text, MAX_QUOTED)))
}

/// The directives, after those that disable [`DISABLED_TARGETS`] that they do not name.
fn with_disabled_targets(directives: &[&str]) -> String {
    let is_named = |target: &str| {
        let names = directives.iter().filter(|directive| directive.contains(['=', '[']));
        names.map(|directive| target_of(directive)).any(|name| !name.is_empty() && target.starts_with(name))
    };
    let disabled = DISABLED_TARGETS.iter().filter(|target| !is_named(target)).map(|target| format!("{target}=off"));
    disabled.chain(directives.iter().map(|directive| (*directive).to_owned())).collect::<Vec<_>>().join(",")
}

/// The target of a directive with a level or a span.
fn target_of(directive: &str) -> &str {
    directive.split(['[', '=']).next().unwrap_or_default()
}

fn check_directive(directive: &str) -> Result<(), String> {
    // An empty text counts as a level too.
    let is_level = |level: &str| !level.is_empty() && level.parse::<LevelFilter>().is_ok();
    let is_module = |name: &str| name == env!("CARGO_PKG_NAME") || name.contains("::");
    let quoted = limited(directive, MAX_QUOTED);
    // The fields of a span may have an `=` of their own.
    let end = directive.rsplit_once(']').map_or(directive, |(_, end)| end);
    let target = target_of(directive);
    let is_of_name = |character: char| character.is_ascii_alphanumeric() || matches!(character, '_' | ':' | '-');
    match end.split_once('=') {
        Some(_) if !target.chars().all(is_of_name) => {
            Err(format!("`{}` in `{quoted}` is not a module", limited(target, MAX_QUOTED)))
        }
        Some((_, level)) if !is_level(level) => {
            Err(format!("`{}` in `{quoted}` is not a level", limited(level, MAX_QUOTED)))
        }
        None if !directive.contains('[') && !is_level(directive) && !is_module(directive) => {
            Err(format!("`{quoted}` is not a level"))
        }
        _ => directive.parse::<Directive>().map(drop).map_err(|error| format!("`{quoted}`: {error}")),
    }
}

/// The file of `--log-filter-file`.
pub struct FilterFile {
    path: PathBuf,
    /// The content of the last reading, or its error.
    last: Option<Result<String, String>>,
    /// The last content or error that was applied or reported.
    handled: Option<Result<String, String>>,
}

/// A change of the file.
#[derive(Debug)]
enum FilterChange {
    Apply(String, Box<EnvFilter>),
    Report(String),
}

impl FilterFile {
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), last: None, handled: None }
    }

    /// The filter in the file at the start of the process. Errors are reported by [`FilterFile::follow`].
    pub fn first(&mut self) -> Option<EnvFilter> {
        match self.observe(read(&self.path))? {
            FilterChange::Apply(_, filter) => Some(*filter),
            FilterChange::Report(_) => None,
        }
    }

    /// Follows changes of the file in a thread that ends with the process.
    pub fn follow(mut self, set: impl Fn(EnvFilter) -> Result<(), reload::Error> + Send + 'static) {
        let followed = thread::Builder::new().name("log-filter".into()).spawn(move || {
            loop {
                thread::sleep(READ_INTERVAL);
                match self.observe(read(&self.path)) {
                    Some(FilterChange::Apply(text, filter)) => apply(&text, || set(*filter)),
                    Some(FilterChange::Report(error)) => warn!(
                        file = %self.path.display(),
                        "cannot use the log filter: {error}; {REMEDY}. The current filter stays in use"
                    ),
                    None => {}
                }
            }
        });
        if let Err(error) = followed {
            warn!(%error, "cannot start the thread that follows --log-filter-file: restart to change the filter");
        }
    }

    /// The change since the last call. A filter applies at once. An error is reported once, if two readings in a row
    /// have it: the file may be empty or incomplete while it is written.
    fn observe(&mut self, found: Result<String, String>) -> Option<FilterChange> {
        let is_stable = self.last.replace(found.clone()).is_some_and(|last| last == found);
        if self.handled.as_ref() == Some(&found) {
            return None;
        }
        let change = match found.clone().and_then(|text| Ok((parse(&text)?, text))) {
            Ok((filter, text)) => FilterChange::Apply(text, Box::new(filter)),
            Err(error) if is_stable => FilterChange::Report(error),
            Err(_) => return None,
        };
        self.handled = Some(found);
        Some(change)
    }
}

/// Sets the filter, and logs this with the filter that lets the message through.
fn apply(text: &str, set: impl FnOnce() -> Result<(), reload::Error>) {
    let report = || info!(filter = %limited(text, MAX_QUOTED), "log filter changed");
    let is_logged_before = enabled!(Level::INFO);
    if is_logged_before {
        report();
    }
    match set() {
        Ok(()) if is_logged_before => {}
        Ok(()) => report(),
        Err(error) => warn!(%error, "cannot change the log filter: restart to apply it"),
    }
}

fn read(path: &Path) -> Result<String, String> {
    let text = text_of_file(path, MAX_FILTER, "shorten it");
    text.map(|text| text.trim().to_owned()).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(file: &mut FilterFile, found: Result<&str, &str>) -> Option<String> {
        Some(match file.observe(found.map(str::to_owned).map_err(str::to_owned))? {
            FilterChange::Apply(text, _) => format!("apply {text}"),
            FilterChange::Report(error) => format!("report {error}"),
        })
    }

    #[test]
    fn a_filter_is_a_level_or_directives() {
        for valid in [
            "debug",
            "INFO",
            "off",
            "3",
            "info,tcplb::upstream=debug",
            "tcplb",
            "info,tcplb::upstream",
            "warn, tcplb=trace",
            "tcplb[span]=debug",
            "[{name=a}]",
            "tcplb[span{name=a}]=debug",
            "info,",
            "debug,,tcplb=info",
        ] {
            assert!(parse(valid).is_ok(), "{valid}");
        }
        for (invalid, part) in [
            ("", "empty"),
            ("debgu", "`debgu` is not a level"),
            ("info,upstream", "`upstream` is not a level"),
            ("info;tcplb=debug", "`info;tcplb` in `info;tcplb=debug` is not a module"),
            ("info tcplb=debug", "`info tcplb` in `info tcplb=debug` is not a module"),
            ("tcplb=loud", "`loud` in `tcplb=loud` is not a level"),
            ("info,tcplb[span]=debgu,warn", "`debgu` in `tcplb[span]=debgu` is not a level"),
            ("tcplb=", "`` in `tcplb=` is not a level"),
            ("info,tcplb[span=debug", "`tcplb[span=debug`: invalid filter directive"),
            ("level: debug\nother", "is not a level"),
        ] {
            let error = parse(invalid).unwrap_err();
            assert!(error.contains(part), "{invalid}: {error}");
        }
        assert!(parse(&"x".repeat(10_000)).unwrap_err().len() < 300);
    }

    #[test]
    fn an_invalid_variable_is_reported_and_the_default_level_applies() {
        let read = |text: &str| filter_of_variable(Ok(text.to_owned()));
        let default = read("info").0.to_string();
        for text in ["inof", "tcplb=debgu", "debug,tcplb::upstream=debgu", "kube"] {
            let (filter, problem) = read(text);
            assert_eq!(filter.to_string(), default, "{text}");
            assert!(problem.unwrap().ends_with("is not a level"), "{text}");
        }
        let (filter, problem) = filter_of_variable(Err(VarError::NotUnicode("info".into())));
        assert_eq!((filter.to_string(), problem.as_deref()), (default.clone(), Some("it is not text in UTF-8")));
        for absent in [Ok(String::new()), Ok(" ".to_owned()), Err(VarError::NotPresent)] {
            let (filter, problem) = filter_of_variable(absent);
            assert_eq!((filter.to_string(), problem), (default.clone(), None));
        }
        for (text, is_enabled) in [("info", false), ("info,kube=trace", true), ("info,kube_client=debug", true)] {
            let (filter, _) = read(text);
            assert_eq!(!filter.to_string().contains("kube_client=off"), is_enabled, "{text}: {filter}");
        }
        let (filter, problem) = read("debug,tcplb::upstream=trace");
        assert!(filter.to_string().contains("tcplb::upstream=trace") && problem.is_none(), "{filter}");
    }

    #[test]
    fn changes_apply_at_once_and_stable_errors_are_reported_once() {
        let mut file = FilterFile::new(Path::new("filter"));
        assert_eq!(outcome(&mut file, Ok("info")).as_deref(), Some("apply info"));
        assert_eq!(outcome(&mut file, Ok("info")), None);
        assert_eq!(outcome(&mut file, Ok("")), None, "the file is being written");
        assert_eq!(outcome(&mut file, Ok("debug")).as_deref(), Some("apply debug"));
        for expected in [None, Some("report `loud` is not a level"), None, None] {
            assert_eq!(outcome(&mut file, Ok("loud")).as_deref(), expected);
        }
        for expected in [None, Some("report No such file"), None] {
            assert_eq!(outcome(&mut file, Err("No such file")).as_deref(), expected);
        }
        assert_eq!(outcome(&mut file, Ok("debug")).as_deref(), Some("apply debug"));
    }

    #[test]
    fn a_file_with_a_filter_is_read_whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("filter");
        assert!(read(&file).unwrap_err().contains("No such file"));
        assert_eq!(read(folder.path()), Err("it is not a file".to_owned()));
        std::fs::write(&file, "debug\n").unwrap();
        assert_eq!(read(&file).as_deref(), Ok("debug"));
        std::fs::write(&file, format!("info,{}=debug", "x".repeat(20_000))).unwrap();
        assert_eq!(read(&file), Err("it has more than 16384 bytes: shorten it".to_owned()));
    }
}

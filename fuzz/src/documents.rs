use std::{cell::RefCell, fs, time::Duration};

use jiff::Timestamp;
use tcplb::{model::Snapshot, source::Files};
use tempfile::TempDir;

use crate::{check_message, checked_translation, cpu_time};

thread_local! {
    static FOLDER: RefCell<Option<TempDir>> = const { RefCell::new(None) };
}

/// Any text as a file of manifests: the time to read and translate it is linear in its length, with the result that
/// [`checked_translation`] describes. The first byte selects JSON (odd) or YAML.
pub fn documents(data: &[u8]) {
    let Some((&seed, text)) = data.split_first() else { return };
    FOLDER.with_borrow_mut(|folder| {
        let folder = folder.get_or_insert_with(|| tempfile::tempdir().expect("a folder for the manifest"));
        let path = folder.path().join(if seed & 1 == 1 { "manifest.json" } else { "manifest.yaml" });
        fs::write(&path, text).expect("the manifest can be written");
        let begin = cpu_time();
        let mut files = Files::new(vec![path]);
        let world = files.read();
        for problem in &world.problems {
            check_message(problem);
        }
        checked_translation(&world, &Snapshot::default(), Timestamp::UNIX_EPOCH);
        // A multiple of the cost of instrumented code, and far below the cost of a quadratic step.
        let allowed =
            Duration::from_secs(5) + Duration::from_micros(40) * u32::try_from(text.len()).unwrap_or(u32::MAX);
        let took = cpu_time() - begin;
        assert!(took < allowed, "took {took:?}");
    });
}

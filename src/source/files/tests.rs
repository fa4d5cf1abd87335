mod absent_values;
mod duplicates;
mod replaced;

use std::{io, os::unix::fs::symlink};

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::source::ChangedPaths;

/// A folder of manifests, and its reader.
struct Folder {
    folder: TempDir,
    files: Files,
}

impl Folder {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let files = Files::new(vec![folder.path().to_owned()]);
        Self { folder, files }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&mut self, name: &str, text: impl AsRef<[u8]>) -> &mut Self {
        fs::write(self.path(name), text).unwrap();
        self
    }

    fn remove(&mut self, name: &str) -> &mut Self {
        fs::remove_file(self.path(name)).unwrap();
        self
    }

    fn read(&mut self) -> World {
        self.files.read()
    }
}

fn lb(name: &str, port: u32) -> String {
    format!(
        "---\napiVersion: tcplb.io/v1alpha1\nkind: TcpLoadBalancer\nmetadata: {{name: {name}}}\n\
         spec: {{listeners: [{{port: {port}}}], backends: [{{addresses: ['192.0.2.7:1']}}]}}\n"
    )
}

fn secret(name: &str, field: &str) -> String {
    format!("---\napiVersion: v1\nkind: Secret\nmetadata: {{name: {name}}}\n{field}\n")
}

fn key(name: &str) -> ObjectKey {
    ObjectKey::new("default", name)
}

/// The served port and the problems of the declaration.
fn served(world: &World, name: &str) -> Option<(Option<u16>, String)> {
    let declared = world.load_balancers.get(&key(name))?;
    Some((declared.spec.as_ref().map(|spec| spec.listeners[0].port), declared.problems.join("\n")))
}

fn good(port: u16) -> Option<(Option<u16>, String)> {
    Some((Some(port), String::new()))
}

#[track_caller]
fn assert_kept(world: &World, name: &str, port: u16, words: &str) {
    let (kept, problems) = served(world, name).unwrap_or_else(|| panic!("{name} is gone"));
    assert_eq!(kept, Some(port), "{name}: {problems}");
    assert!(problems.contains(words), "{name}: {problems:?} has no {words:?}");
}

#[track_caller]
fn assert_says(world: &World, words: &str) {
    assert!(world.problems.iter().any(|problem| problem.contains(words)), "{:?} has no {words:?}", world.problems);
}

#[test]
fn a_folder_is_its_manifests_in_order_without_hidden_ones_and_subfolders() {
    let mut folder = Folder::new();
    folder
        .write("b.yml", lb("b", 2))
        .write("a.yaml", lb("a", 1))
        .write(".c.yaml", lb("c", 3))
        .write("d.txt", lb("d", 4));
    folder.write("e.json", r#"{"apiVersion": "v1", "kind": "Service", "metadata": {"name": "e"}}"#);
    fs::create_dir(folder.path("f.yaml")).unwrap();
    let world = folder.read();
    assert_eq!(world.load_balancers.keys().collect::<Vec<_>>(), [&key("a"), &key("b")]);
    assert!(world.services.contains_key(&key("e")));
    assert_eq!(world.problems, Vec::<String>::new());
    let declared = &world.load_balancers[&key("a")];
    assert_eq!(*declared.origin, *folder.path("a.yaml").display().to_string());
    assert_eq!(declared.path_of("tls.crt"), folder.path("tls.crt"));
}

#[test]
fn an_object_that_became_wrong_keeps_its_last_good_text_and_the_others_change() {
    let mut folder = Folder::new();
    folder.write("a.yaml", lb("a", 1) + &lb("b", 2));
    assert_eq!(served(&folder.read(), "a"), good(1));

    folder.write("a.yaml", lb("a", 70_000) + &lb("b", 3));
    for _ in 0..2 {
        let world = folder.read();
        assert_kept(&world, "a", 1, "spec.listeners[0].port: 70000 is out of range");
        assert_eq!(served(&world, "b"), good(3));
    }

    folder.write("a.yaml", lb("a", 4) + &lb("b", 3));
    assert_eq!(served(&folder.read(), "a"), good(4));
}

#[test]
fn a_file_that_is_being_written_counts_as_it_was_before() {
    let mut folder = Folder::new();
    let tls = "tls: {certificateRefs: [{files: {certificate: tls.crt, key: tls.key}}]}";
    folder.write("tls.crt", "leaf, intermediate").write("tls.key", "key");
    folder.write("a.yaml", lb("a", 1).replace("port: 1", &format!("port: 1, {tls}")) + &lb("b", 2)).read();
    for name in ["a.yaml", "new.yaml", "tls.crt"] {
        let canonical = folder.folder.path().canonicalize().unwrap().join(name);
        folder.files.unfinished.modified(&canonical, Instant::now());
    }
    let half = folder.path("a.yaml").metadata().unwrap().len() as usize - lb("b", 2).len();
    let text = fs::read_to_string(folder.path("a.yaml")).unwrap();
    folder.write("a.yaml", &text[..half]).write("new.yaml", lb("c", 3)).write("tls.crt", "leaf");
    for _ in 0..2 {
        let world = folder.read();
        assert_eq!((served(&world, "a"), served(&world, "b")), (good(1), good(2)));
        assert_eq!(served(&world, "c"), None, "its limits may still be to come");
        assert_eq!(world.files[&folder.path("tls.crt")].as_deref(), Ok(&b"leaf, intermediate"[..]));
        assert_eq!(world.problems, Vec::<String>::new());
    }
    folder.files.unfinished.finished(&folder.folder.path().canonicalize().unwrap());
    let world = folder.read();
    assert_eq!((served(&world, "b"), served(&world, "c")), (None, good(3)));
    assert_eq!(world.files[&folder.path("tls.crt")].as_deref(), Ok(&b"leaf"[..]));
}

#[test]
fn an_object_invalid_from_the_start_has_no_spec() {
    let mut folder = Folder::new();
    folder.write("a.yaml", lb("a", 0) + &lb("b", 2));
    let world = folder.read();
    let (port, problems) = served(&world, "a").unwrap();
    assert!(port.is_none() && problems.contains("0 is out of range"), "{problems}");
    assert_eq!(served(&world, "b"), good(2));
}

#[test]
fn a_file_that_cannot_be_read_keeps_all_it_declared() {
    let text = lb("a", 1) + &lb("b", 2) + &secret("s", "stringData: {x: text}");
    for (broken, words) in [
        (b"kind: [".to_vec(), "is not YAML: unclosed bracket"),
        (b"\xfd\xfe".to_vec(), "is not text in UTF-8"),
        (b"\n".to_vec(), "is empty: write a manifest, or delete the file"),
    ] {
        let mut folder = Folder::new();
        folder.write("a.yaml", &text).write("z.yaml", lb("z", 9));
        folder.read();
        folder.write("a.yaml", broken).write("z.yaml", lb("z", 10));
        for _ in 0..2 {
            let world = folder.read();
            let see = "a.yaml cannot be read completely: see the message about that file";
            assert_kept(&world, "a", 1, see);
            assert_kept(&world, "b", 2, see);
            assert!(world.secrets.contains_key(&key("s")));
            assert_says(&world, &format!("a.yaml: {words}"));
            assert_says(&world, "the previous content stays in use");
            assert_eq!(served(&world, "z"), good(10));
        }
        folder.write("a.yaml", lb("b", 3));
        let world = folder.read();
        assert_eq!((served(&world, "a"), served(&world, "b")), (None, good(3)));
        assert_eq!((world.secrets.len(), world.problems.len()), (0, 0));
    }
}

#[test]
fn a_broken_document_keeps_the_objects_it_may_declare() {
    let mut folder = Folder::new();
    folder.write("a.yaml", lb("a", 1) + &lb("b", 2) + &secret("s", "stringData: {x: text}")).read();
    folder.write("a.yaml", lb("a", 3) + "---\nkind: [\n" + &lb("c", 4));
    for _ in 0..2 {
        let world = folder.read();
        assert_eq!((served(&world, "a"), served(&world, "c")), (good(3), good(4)));
        assert_kept(&world, "b", 2, "a.yaml cannot be read completely");
        assert!(world.secrets.contains_key(&key("s")));
        assert_eq!(world.problems.len(), 1);
        assert_says(
            &world,
            "a.yaml: is not YAML: unclosed bracket '[' at line 7, column 7; the previous content stays in use",
        );
    }
    folder.write("a.yaml", lb("a", 3) + &lb("c", 4));
    let world = folder.read();
    assert_eq!((served(&world, "b"), world.secrets.len()), (None, 0));
}

#[test]
fn an_object_that_was_wrong_stays_wrong_while_its_file_cannot_be_read() {
    let mut folder = Folder::new();
    folder.write("a.yaml", lb("a", 1)).read();
    folder.write("a.yaml", lb("a", 0)).read();
    folder.write("a.yaml", "[");
    let world = folder.read();
    assert_kept(&world, "a", 1, "0 is out of range");
    assert_kept(&world, "a", 1, "a.yaml cannot be read completely");
}

#[test]
fn a_document_without_its_name_deletes_nothing() {
    let mut folder = Folder::new();
    folder.write("a.yaml", lb("a", 1) + &lb("b", 2)).read();
    folder.write("a.yaml", lb("a", 1).replace("name: a", "") + &lb("b", 3));
    let world = folder.read();
    assert_kept(&world, "a", 1, "a.yaml cannot be read completely");
    assert_eq!(served(&world, "b"), good(3));
    assert_says(&world, "a.yaml:2: TcpLoadBalancer has no name");
}

#[test]
fn objects_removed_from_a_file_or_with_it_are_deleted() {
    let mut folder = Folder::new();
    folder.write("a.yaml", lb("a", 1) + &lb("b", 2)).write("c.yaml", lb("c", 3)).read();
    folder.write("a.yaml", lb("a", 1)).remove("c.yaml");
    let world = folder.read();
    assert_eq!(world.load_balancers.keys().collect::<Vec<_>>(), [&key("a")]);
    folder.write("a.yaml", "# nothing any more");
    assert_eq!(folder.read().load_balancers.len(), 0);
    folder.remove("a.yaml");
    assert_says(&folder.read(), "has no *.yaml, *.yml or *.json file");
}

#[test]
fn a_file_that_is_only_being_replaced_is_not_deleted() {
    let mut folder = Folder::new();
    folder.write("a.yaml", lb("a", 1)).read();
    folder.remove("a.yaml");
    let (paths, path) = (folder.files.paths.clone(), folder.path("a.yaml"));
    // Imitates an editor: the file is written after the first listing of the folder.
    let comes_back = || fs::write(&path, lb("a", 2)).unwrap();
    let listing = Listing::settled(&paths, folder.files.remembered.keys(), comes_back);
    assert_eq!(listing.files.iter().map(|listed| &listed.file).collect::<Vec<_>>(), [&path]);
    assert_eq!(served(&folder.read(), "a"), good(2));
}

#[test]
fn a_deleted_object_is_not_remembered() {
    let mut folder = Folder::new();
    folder.write("a.yaml", lb("a", 1)).read();
    folder.write("a.yaml", "# none").read();
    folder.write("a.yaml", lb("a", 0));
    assert_eq!(served(&folder.read(), "a").unwrap().0, None);
}

#[test]
fn a_path_that_was_named_and_is_gone_keeps_what_it_declared() {
    let folder = tempfile::tempdir().unwrap();
    let (file, below) = (folder.path().join("a.yaml"), folder.path().join("below"));
    fs::write(&file, lb("a", 1)).unwrap();
    fs::create_dir(&below).unwrap();
    fs::write(below.join("b.yaml"), lb("b", 2)).unwrap();
    let mut files = Files::new(vec![file.clone(), below.clone()]);
    assert_eq!(files.read().load_balancers.len(), 2);

    fs::remove_file(&file).unwrap();
    fs::rename(&below, folder.path().join("elsewhere")).unwrap();
    for _ in 0..2 {
        let world = files.read();
        assert_kept(&world, "a", 1, "a.yaml cannot be read completely");
        assert_kept(&world, "b", 2, "b.yaml cannot be read completely");
        assert_says(&world, "below: no such file or folder");
        assert_says(
            &world,
            "a.yaml: no such file or folder: create it, or correct the path; the previous content stays in use",
        );
    }
    fs::rename(folder.path().join("elsewhere"), &below).unwrap();
    fs::remove_file(below.join("b.yaml")).unwrap();
    fs::write(&file, lb("a", 3)).unwrap();
    let world = files.read();
    assert_eq!((served(&world, "a"), served(&world, "b")), (good(3), None));
}

#[test]
fn files_missing_at_the_start_are_reported() {
    let world = Files::new(vec!["/nowhere/a.yaml".into()]).read();
    assert_eq!(world.problems, ["/nowhere/a.yaml: no such file or folder: create it, or correct the path"]);
    let mut folder = Folder::new();
    folder.write("a.yaml", "{").write("b.yaml", "");
    let world = Files::new(vec![folder.path("a.yaml"), folder.path("b.yaml")]).read();
    assert_says(&world, "a.yaml: is not YAML");
    assert_says(&world, "b.yaml: is empty");
    assert!(!world.problems.concat().contains("stays"));
}

#[test]
fn a_file_named_twice_is_read_once() {
    let mut folder = Folder::new();
    folder.write("a.yaml", lb("a", 1));
    symlink("a.yaml", folder.path("b.yaml")).unwrap();
    let paths = vec![folder.path("a.yaml"), folder.folder.path().to_owned(), folder.path("./a.yaml")];
    let world = Files::new(paths).read();
    assert_eq!((served(&world, "a"), world.problems.len()), (good(1), 0));
}

#[test]
fn link_targets_outside_a_folder_are_watched() {
    let mut folder = Folder::new();
    fs::create_dir(folder.path("elsewhere")).unwrap();
    let tls = "tls: {certificateRefs: [{files: {certificate: tls.crt, key: tls.key}}]}";
    folder.write("a.yaml", lb("a", 1).replace("port: 1", &format!("port: 1, {tls}"))).write("elsewhere/b", lb("b", 2));
    symlink("elsewhere/b", folder.path("b.yaml")).unwrap();
    assert_eq!(folder.read().load_balancers.len(), 2);
    let (interest, real) = (folder.files.interest(), folder.folder.path().canonicalize().unwrap());
    for (name, matters) in [
        ("", true),
        ("a.yaml", true),
        ("new.yaml", true),
        ("b.yaml", true),
        ("elsewhere/b", true),
        ("elsewhere", true),
        ("tls.key", true),
        ("other.key", false),
        ("elsewhere/c", false),
    ] {
        assert_eq!(interest.concerns(&real.join(name)), matters, "{name}");
    }
}

#[test]
fn other_objects_keep_their_last_good_text_too() {
    let mut folder = Folder::new();
    folder.write("a.yaml", secret("s", "stringData: {x: good}"));
    let before = folder.read();
    folder.write("a.yaml", secret("s", "data: {x: '!'}"));
    for _ in 0..2 {
        let world = folder.read();
        assert_eq!(world.secrets, before.secrets);
        assert_says(&world, "a.yaml:2: Secret default/s: data.x: is not base64");
        assert_says(&world, "; the previous version stays in use");
    }
}

#[test]
fn an_object_that_could_never_be_read_is_known_to_be_there() {
    let mut folder = Folder::new();
    folder.write("a.yaml", secret("s", "data: {x: '!'}"));
    let world = folder.read();
    let (object, why) = world.unreadable.first_key_value().unwrap();
    assert!(*object == ("Secret", key("s")) && why.contains("data.x"), "{why}");
    folder.write("a.yaml", secret("s", "data: {x: aGVsbG8=}")).read();
    folder.write("a.yaml", secret("s", "data: {x: '!'}"));
    assert_eq!(folder.read().unreadable.len(), 0);
}

#[test]
fn an_unknown_field_is_reported_and_the_rest_applies() {
    let mut folder = Folder::new();
    folder.write("a.yaml", secret("s", "stringdata: {x: text}"));
    let world = folder.read();
    assert!(world.secrets.contains_key(&key("s")));
    assert_says(&world, "a.yaml:2: Secret default/s: stringdata: unknown field (did you mean `stringData`?)");
}

#[test]
fn flags_are_a_load_balancer_that_is_checked_like_any_other() {
    let spec = |port| -> TcpLoadBalancerSpec {
        let backends = serde_json::json!([{"addresses": ["127.0.0.1:5001"]}]);
        serde_json::from_value(serde_json::json!({"listeners": [{"port": port}], "backends": backends})).unwrap()
    };
    let world = Files::new(vec![]).with_flags(&spec(4000)).read();
    assert_eq!(served(&world, "cli"), good(4000));
    assert_eq!(&*world.load_balancers[&key("cli")].origin, "command line");

    let mut folder = Folder::new();
    folder.write("a.yaml", lb("cli", 1) + &lb("a", 2));
    folder.files = folder.files.with_flags(&spec(0));
    let world = folder.read();
    assert!(served(&world, "cli").unwrap().1.contains("spec.listeners[0].port: 0 is out of range"));
    assert_eq!(served(&world, "a"), good(2));
    assert_says(&world, "TcpLoadBalancer default/cli is also declared at command line");
}

#[test]
fn certificate_files_are_read_from_where_their_manifest_is() {
    let mut folder = Folder::new();
    let tls = "tls: {certificateRefs: [{files: {certificate: tls.crt, key: /nowhere/tls.key}}]}";
    folder.write("tls.crt", "PEM").write("a.yaml", lb("a", 1).replace("port: 1", &format!("port: 1, {tls}")));
    let world = folder.read();
    assert_eq!(world.files[&folder.path("tls.crt")].as_deref(), Ok(&b"PEM"[..]));
    let missing = world.files[Path::new("/nowhere/tls.key")].clone().unwrap_err();
    assert_eq!(&*missing, "no such file or folder: create it, or correct the path");

    folder.remove("tls.crt");
    fs::create_dir(folder.path("tls.crt")).unwrap();
    let wrong = folder.read().files[&folder.path("tls.crt")].clone().unwrap_err();
    assert_eq!(&*wrong, "cannot be read: it is not a file");
    // The last good version is still served, and its files are still read.
    folder.write("a.yaml", "[");
    assert_eq!(folder.read().files.len(), 2);
}

#[test]
fn reading_twice_gives_the_same_world() {
    let mut folder = Folder::new();
    folder.write("a.yaml", lb("a", 1) + &lb("b", 0) + &secret("s", "stringData: {x: text}") + "---\nx: 1\n");
    let world = folder.read();
    assert!(world == folder.read());
}

#[test]
fn an_unchanged_file_is_not_read_again() {
    let mut folder = Folder::new();
    folder.write("a.yaml", lb("a", 1)).write("b.yaml", lb("b", 2));
    folder.read();
    let known = folder.path("a.yaml");
    let remembered = folder.files.remembered.get_mut(&known).unwrap();
    assert_eq!(remembered.version, None, "another change within the resolution of timestamps may not show");
    // As if the change were long ago. Without its documents, only another reading declares its object.
    (remembered.version, remembered.documents) = (FileVersion::of(&known), Vec::new());
    let world = folder.read();
    assert_eq!((served(&world, "a"), served(&world, "b")), (None, good(2)));
    folder.write("a.yaml", lb("a", 3));
    assert_eq!(served(&folder.read(), "a"), good(3));
}

#[test]
fn a_pipe_is_read_once() {
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("pipe");
    let (reader, mut writer) = io::pipe().unwrap();
    let source = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&reader));
    symlink(source, &pipe).unwrap();
    io::Write::write_all(&mut writer, lb("a", 1).as_bytes()).unwrap();
    drop(writer);
    let mut files = Files::new(vec![pipe]);
    assert_eq!(served(&files.read(), "a"), good(1));
    assert_eq!(served(&files.read(), "a"), good(1));
}

#[test]
fn byte_order_marks_at_the_beginning_mean_nothing() {
    let mut folder = Folder::new();
    let json = r#"{"apiVersion": "tcplb.io/v1alpha1", "kind": "TcpLoadBalancer", "metadata": {"name": "j"},
        "spec": {"listeners": [{"port": 2}], "backends": [{"addresses": ["192.0.2.7:1"]}]}}"#;
    for marks in ["\u{feff}", "\u{feff}\u{feff}"] {
        folder.write("a.yaml", format!("{marks}{}", lb("a", 1))).write("j.json", format!("{marks}{json}"));
        let world = folder.read();
        assert_eq!(world.problems, Vec::<String>::new());
        assert_eq!((served(&world, "a"), served(&world, "j")), (good(1), good(2)));
    }
}

#[test]
fn a_text_in_another_encoding_is_reported_and_keeps_its_objects() {
    let mut folder = Folder::new();
    let text = lb("a", 1);
    let utf_16 = |mark: &[u8]| mark.iter().copied().chain(text.encode_utf16().flat_map(u16::to_le_bytes)).collect();
    let latin_1 = [text.as_bytes(), b"# Gesch\xe4ft\n"].concat();
    let wrong: [(Vec<u8>, &str); 5] = [
        (
            utf_16(b"\xff\xfe"),
            "a.yaml: is text in UTF-16 or UTF-32: save it as UTF-8; the previous content stays in use",
        ),
        (utf_16(b""), "a.yaml: has a NUL byte at line 1, and is probably UTF-16 or UTF-32: save it as UTF-8"),
        (b"\x1f\x8b\x08\0\0".to_vec(), "a.yaml: is compressed (gzip): decompress it; the previous content stays"),
        (latin_1, "a.yaml: is not text in UTF-8, from line 6 on: save it as UTF-8"),
        (format!("{text}\u{feff}{}", lb("b", 2)).into(), "a.yaml: has a byte order mark within the text, at line 6"),
    ];
    folder.write("a.yaml", &text).read();
    for (bytes, expected) in wrong {
        let world = folder.write("a.yaml", bytes).read();
        assert_kept(&world, "a", 1, "cannot be read completely");
        assert_says(&world, expected);
    }
}

#[test]
fn a_file_that_is_too_large_is_reported() {
    let mut folder = Folder::new();
    folder.write("a.yaml", lb("a", 1)).read();
    fs::File::create(folder.path("a.yaml")).unwrap().set_len(MAX_FILE + 1).unwrap();
    let world = folder.read();
    assert_kept(&world, "a", 1, "a.yaml cannot be read completely");
    assert_says(
        &world,
        "a.yaml: cannot be read: it has more than 16777216 bytes: split it; the previous content stays in use",
    );
}

#[test]
fn unreadable_files_are_read_again() {
    let mut folder = Folder::new();
    folder.write("a.yaml", lb("a", 1)).read();
    assert!(!folder.files.is_incomplete());
    // A loop of links, which is an error of the file system.
    folder.remove("a.yaml");
    symlink(folder.path("a.yaml"), folder.path("a.yaml")).unwrap();
    let world = folder.read();
    assert!(folder.files.is_incomplete());
    assert_kept(&world, "a", 1, "a.yaml cannot be read completely");
    assert_says(&world, "; it will be retried; the previous content stays in use");

    folder.remove("a.yaml");
    let tls = "tls: {certificateRefs: [{files: {certificate: tls.crt, key: tls.key}}]}";
    folder
        .write("tls.crt", "certificate")
        .write("a.yaml", lb("a", 1).replace("port: 1", &format!("port: 1, {tls}")))
        .read();
    assert!(folder.files.is_incomplete(), "the key is missing");
    folder.write("tls.key", "key").read();
    assert!(!folder.files.is_incomplete());
}

#[test]
fn replacing_the_objects_of_a_file_takes_linear_time() {
    let texts = |count: usize, from: usize| {
        (from..from + count).map(|number| secret(&format!("s{number}"), "")).collect::<String>()
    };
    let prepare = |count: usize| {
        let mut folder = Folder::new();
        folder.write("a.yaml", texts(count, 0)).read();
        // The first document cannot be read, so it may contain the previous ones.
        folder.write("a.yaml", format!("a: [\n{}", texts(count, count)));
        folder
    };
    crate::cost::assert_grows_no_faster_than_n_log_n(100, prepare, |folder| {
        assert!(!folder.read().secrets.is_empty());
    });
}

/// Contents of a manifest, and a certificate file. `NAME` is the name of the file.
const CONTENTS: [&str; 9] = [
    "LB",
    "LB2",
    "LB\nSECRET",
    "{not YAML",
    "kind: TcpLoadBalancer",
    "LB\n---\nkind: TcpLoadBalancer\napiVersion: tcplb.io/v1alpha1\nmetadata: {name: twin}\nspec: {listeners: [{port: 9}]}",
    "TLS",
    "SECRET\nLB\n",
    "",
];

fn content(name: &str, variant: usize) -> String {
    let tls = format!(
        "---\napiVersion: tcplb.io/v1alpha1\nkind: TcpLoadBalancer\nmetadata: {{name: {name}}}\nspec: {{listeners: \
         [{{port: 7, tls: {{certificateRefs: [{{files: {{certificate: {name}.crt, key: b.crt}}}}]}}}}], backends: \
         [{{addresses: ['192.0.2.7:1']}}]}}"
    );
    let secret = secret("own", &format!("stringData: {{a: {variant}}}"));
    CONTENTS[variant]
        .replace("LB2", &lb(name, 2))
        .replace("LB", &lb(name, 1))
        .replace("SECRET", &secret)
        .replace("TLS", &tls)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Files are written and removed, and read alone or all together.
    #[test]
    fn reading_what_has_changed_equals_reading_everything(
        edits in prop::collection::vec(prop::collection::vec((0..5usize, 0..CONTENTS.len()), 0..3), 1..8)
    ) {
        let mut folder = Folder::new();
        for (number, name) in ["a", "b", "c"].into_iter().enumerate() {
            folder.write(&format!("{name}.yaml"), content(name, [0, 6, 0][number]));
            folder.write(&format!("{name}.crt"), name);
        }
        let mut others = Files::new(folder.files.paths.clone());
        let whole = others.read();
        prop_assert_eq!(folder.files.read_after(&ChangedPaths::Unknown), (whole, true));
        let real = fs::canonicalize(folder.folder.path()).unwrap();
        for edits in edits {
            let mut changed = BTreeSet::new();
            for (file, variant) in edits {
                let name = ["a", "b", "c", "a", "b"][file];
                let (file, text) = match file {
                    0..3 => (format!("{name}.yaml"), content(name, variant)),
                    _ => (format!("{name}.crt"), CONTENTS[variant].to_owned()),
                };
                // The last variant of a manifest is its removal.
                match text.is_empty() && file.ends_with("yaml") {
                    true => drop(fs::remove_file(folder.path(&file))),
                    false => drop(folder.write(&file, text)),
                }
                changed.insert(real.join(file));
            }
            let (read, _) = folder.files.read_after(&ChangedPaths::Files(changed));
            prop_assert_eq!(read, others.read());
            prop_assert_eq!(folder.files.problems(), others.problems());
            prop_assert_eq!(folder.files.is_incomplete(), others.is_incomplete());
        }
    }
}

#[test]
fn a_changed_file_is_read_alone_unless_others_may_be_concerned() {
    for (file, variant, is_alone) in [
        ("a.yaml", 1, true),
        ("a.yaml", 0, true),
        ("b.yaml", 6, true),
        ("a.crt", 0, false),
        ("b.crt", 0, true),
        ("a.yaml", 2, false),
        ("a.yaml", 3, false),
        ("a.yaml", 6, false),
        ("a.yaml", 8, false),
        ("new.yaml", 0, false),
    ] {
        let mut folder = Folder::new();
        folder.write("a.yaml", content("a", 0)).write("b.yaml", content("b", 6)).write("b.crt", "text");
        assert_eq!(folder.read().problems, Vec::<String>::new());
        let name = file.split('.').next().unwrap();
        folder.write(file, content(name, variant));
        let path = fs::canonicalize(folder.path(file)).unwrap();
        let (_, reads_all) = folder.files.read_after(&ChangedPaths::Files([path].into()));
        assert_eq!(!reads_all, is_alone, "{file} with variant {variant}");
    }
}

/// Otherwise a change of the target of a new link, or of a file with two names, would be missed.
#[test]
fn a_file_is_read_alone_only_under_its_only_name() {
    let manifest = |name: &str, certificate: &str| content(name, 6).replace(&format!("{name}.crt"), certificate);
    let mut folder = Folder::new();
    folder.write("a.yaml", manifest("a", "a.crt")).write("a.crt", "one").write("b.crt", "key").write("c.crt", "other");
    folder.read();
    let real = fs::canonicalize(folder.folder.path()).unwrap();
    let reads_all =
        |folder: &mut Folder, file: &str| folder.files.read_after(&ChangedPaths::Files([real.join(file)].into())).1;
    folder.write("a.crt", "two");
    assert!(!reads_all(&mut folder, "a.crt"));
    folder.remove("a.crt");
    symlink("c.crt", folder.path("a.crt")).unwrap();
    assert!(reads_all(&mut folder, "a.crt"), "a link");

    fs::create_dir(folder.path("sub")).unwrap();
    folder.remove("a.crt").write("a.crt", "three");
    folder.write("z.yaml", manifest("z", "sub/../a.crt"));
    let world = folder.read();
    assert_eq!(world.files.len(), 3, "{:?}", world.files.keys().collect::<Vec<_>>());
    folder.write("a.crt", "four");
    assert!(reads_all(&mut folder, "a.crt"), "a file with two names");
}

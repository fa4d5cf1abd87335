//! Manifests and folders that something else replaces, and objects with a new name.

use std::os::unix::net::UnixListener;

use super::*;

#[test]
fn a_manifest_that_something_else_replaces_keeps_what_it_declared() {
    let mut folder = Folder::new();
    folder.write("a.yaml", lb("a", 1)).write("b.yaml", lb("b", 2)).read();
    fs::remove_file(folder.path("a.yaml")).unwrap();
    fs::create_dir(folder.path("a.yaml")).unwrap();
    let _socket = UnixListener::bind(folder.path("new.yaml")).unwrap();
    for _ in 0..2 {
        let world = folder.read();
        assert_kept(&world, "a", 1, "a.yaml cannot be read completely");
        assert_eq!((served(&world, "b"), world.problems.len()), (good(2), 2));
        let sentence = "is not a regular file: move it elsewhere, or write a manifest in its place";
        assert_says(&world, &format!("a.yaml: {sentence}; the previous content stays in use"));
        assert!(world.problems[1].ends_with(&format!("new.yaml: {sentence}")), "{:?}", world.problems);
    }
    fs::remove_dir(folder.path("a.yaml")).unwrap();
    fs::remove_file(folder.path("new.yaml")).unwrap();
    let world = folder.read();
    assert_eq!((served(&world, "a"), world.problems.len()), (None, 0));
}

#[test]
fn links_to_the_same_device_and_paths_of_another_type_keep_what_they_declared() {
    let mut folder = Folder::new();
    folder.write("a.yaml", lb("a", 1)).write("b.yaml", lb("b", 2)).read();
    for name in ["a.yaml", "b.yaml"] {
        fs::remove_file(folder.path(name)).unwrap();
        symlink("/dev/null", folder.path(name)).unwrap();
    }
    let world = folder.read();
    assert_kept(&world, "a", 1, "a.yaml cannot be read completely");
    assert_kept(&world, "b", 2, "b.yaml cannot be read completely");

    // The folder becomes a file.
    let path = folder.path("");
    fs::remove_dir_all(&path).unwrap();
    fs::write(path.parent().unwrap().join(path.file_name().unwrap()), lb("c", 3)).unwrap();
    let world = folder.read();
    assert_kept(&world, "a", 1, "cannot be read completely");
    assert_kept(&world, "b", 2, "cannot be read completely");
    assert_says(&world, ": is no longer a folder: restore it; the previous content stays in use");
    fs::remove_file(path.parent().unwrap().join(path.file_name().unwrap())).unwrap();
}

#[test]
fn an_object_whose_name_became_invalid_stays() {
    let mut folder = Folder::new();
    folder.write("a.yaml", lb("a", 1) + &lb("b", 2)).read();
    for name in ["A_1", "7", &"a".repeat(53)] {
        folder.write("a.yaml", lb(name, 3) + &lb("b", 4));
        let world = folder.read();
        assert_kept(&world, "a", 1, "a.yaml cannot be read completely");
        assert_eq!((served(&world, "b"), world.load_balancers.len()), (good(4), 2), "{name}");
        assert_says(&world, "; the previous content stays in use");
    }
    // A Secret is no load balancer.
    folder.write("a.yaml", secret("S", "stringData: {x: text}") + &lb("b", 4));
    assert_eq!(folder.read().load_balancers.len(), 1);
}

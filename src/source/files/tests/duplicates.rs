//! Several declarations of the same object.

use super::*;

#[test]
fn the_first_declaration_is_used() {
    let mut folder = Folder::new();
    folder.write("a.yaml", lb("a", 1)).write("b.yaml", lb("b", 2) + &lb("a", 3));
    let world = folder.read();
    assert_eq!((served(&world, "a"), served(&world, "b")), (good(1), good(2)));
    assert_says(&world, "b.yaml:7: TcpLoadBalancer default/a is also declared at ");
    assert_says(&world, "a.yaml:2, which is used");

    folder.remove("a.yaml");
    let world = folder.read();
    assert_eq!(served(&world, "a"), good(3));
    assert_eq!(world.problems, Vec::<String>::new());
}

#[test]
fn a_valid_declaration_takes_precedence_over_an_invalid_one() {
    let invalid = lb("a", 1).replace("spec: {", "spec: {unknown: 1, ");
    let mut folder = Folder::new();
    folder.write("a.yaml", &invalid).write("b.yaml", lb("a", 2) + &lb("a", 3)).write("c.yaml", &invalid);
    let world = folder.read();
    assert_eq!(served(&world, "a"), good(2));
    assert_eq!(world.problems.len(), 3, "{:?}", world.problems);
    assert_says(&world, "b.yaml:2, which is used");
    assert_eq!(folder.files.places()[&key("a")].1, 2);
}

#[test]
fn a_declaration_that_is_added_does_not_replace_the_one_in_use() {
    let mut folder = Folder::new();
    let of_secret = |value: &str| secret("s", &format!("stringData: {{a: {value}}}"));
    folder.write("b.yaml", lb("a", 1) + &of_secret("x"));
    let first = folder.read();
    assert_eq!(served(&first, "a"), good(1));

    folder.write("a.yaml", lb("a", 2) + &of_secret("z"));
    let world = folder.read();
    assert_eq!(served(&world, "a"), good(1));
    assert_eq!(world.secrets, first.secrets);
    assert_says(&world, "a.yaml:2: TcpLoadBalancer default/a is also declared at ");
    assert_says(&world, "a.yaml:7: Secret default/s is also declared at ");

    // Neither while its text is invalid, nor while its file cannot be read.
    folder.write("b.yaml", lb("a", 1).replace("spec: {", "spec: {unknown: 1, ") + &of_secret("x"));
    assert_kept(&folder.read(), "a", 1, "unknown field");
    folder.write("b.yaml", "");
    let world = folder.read();
    assert_kept(&world, "a", 1, "cannot be read");
    assert_eq!(world.secrets, first.secrets);

    folder.remove("b.yaml");
    let world = folder.read();
    assert_eq!(served(&world, "a"), good(2));
    assert_ne!(world.secrets, first.secrets);
    assert_eq!(world.problems, Vec::<String>::new());
}

#[test]
fn a_mistake_in_the_declaration_in_use_does_not_make_another_one_of_its_file_used() {
    let mut folder = Folder::new();
    folder.write("a.yaml", lb("a", 1) + &lb("a", 2)).read();
    let invalid = lb("a", 1).replace("spec: {", "spec: {unknown: 1, ");
    folder.write("a.yaml", invalid.clone() + &lb("a", 2));
    for _ in 0..2 {
        assert_kept(&folder.read(), "a", 1, "unknown field");
    }
    folder.write("a.yaml", lb("a", 2));
    assert_eq!(served(&folder.read(), "a"), good(2));
    // The problems of a declaration that is not used are reported with it.
    folder.write("b.yaml", invalid);
    let world = folder.read();
    assert_eq!(served(&world, "a"), good(2));
    assert_says(&world, "which is used: remove one of them, or rename it; in this one, spec.unknown: unknown field");
}

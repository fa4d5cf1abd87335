//! Fields whose value was deleted, or is not indented below them.

use super::*;

#[test]
fn a_list_whose_items_have_no_value_keeps_its_objects() {
    let object = "{apiVersion: tcplb.io/v1alpha1, kind: TcpLoadBalancer, metadata: {name: a}, spec: {listeners: \
                  [{port: 1}], backends: [{addresses: ['192.0.2.7:1']}]}}";
    for (api_version, kind) in [("v1", "List"), ("tcplb.io/v1alpha1", "TcpLoadBalancerList")] {
        let mut folder = Folder::new();
        let list = format!("apiVersion: {api_version}\nkind: {kind}\n");
        folder.write("a.yaml", format!("{list}items:\n- {object}\n"));
        assert_eq!(served(&folder.read(), "a"), good(1), "{kind}");
        for items in ["items:\n", "items: null\n", "items: ~\n"] {
            folder.write("a.yaml", format!("{}---\n{list}{items}", lb("b", 2)));
            let world = folder.read();
            assert_kept(&world, "a", 1, "cannot be read completely");
            assert_eq!(served(&world, "b"), good(2));
            assert_says(
                &world,
                "a.yaml:7: items: has no value: write the objects below it, or `items: []` if there are none; the \
                 previous content stays in use",
            );
        }
        folder.write("a.yaml", format!("{list}items: []\n"));
        let world = folder.read();
        assert_eq!((served(&world, "a"), world.problems.len()), (None, 0), "an empty list is a deletion");
    }
}

#[test]
fn an_object_with_a_field_without_a_value_keeps_its_last_good_text() {
    let spec = "{listeners: [{port: 1}], backends: [{addresses: ['192.0.2.7:1']}]}";
    for (field, absent, words) in [
        (spec, "null", "spec: is missing: write `spec:`"),
        ("[{port: 1}]", "null", "spec.listeners: is missing: write the ports"),
        ("[{port: 1}]", "[null]", "spec.listeners[0]: must be an object (`name: value` lines), not empty"),
        ("[{addresses: ['192.0.2.7:1']}]", "null", "spec.backends: is missing: write the backends"),
        ("kind: TcpLoadBalancer", "kind: null", "kind: must be TcpLoadBalancer: write"),
        ("apiVersion: tcplb.io/v1alpha1", "apiVersion: null", "apiVersion: must be tcplb.io/v1alpha1: write"),
    ] {
        let mut folder = Folder::new();
        folder.write("a.yaml", lb("a", 1)).read();
        let text = lb("a", 1).replace(field, absent);
        folder.write("a.yaml", &text);
        assert_kept(&folder.read(), "a", 1, words);
    }
}

#[test]
fn a_document_whose_object_is_unknown_for_lack_of_a_value_keeps_the_objects_of_its_file() {
    let object = secret("tls", "stringData: {a: b}");
    for (field, absent, words) in [
        ("{name: tls}", "null", "a.yaml:2: Secret has no name: write `metadata:` with `name:`"),
        ("name: tls", "name: null", "a.yaml:2: Secret has no name: write `metadata:` with `name:`"),
        ("kind: Secret", "kind:", "a.yaml:2: has no kind: write for example `kind: Secret`"),
        ("apiVersion: v1", "apiVersion:", "a.yaml:2: Secret has no apiVersion: write `apiVersion: v1`"),
    ] {
        let mut folder = Folder::new();
        folder.write("a.yaml", &object).read();
        folder.write("a.yaml", object.replace(field, absent));
        let world = folder.read();
        assert!(world.secrets.contains_key(&key("tls")), "{absent}: {:?}", world.problems);
        assert_says(&world, words);
    }
}

#[test]
fn a_file_of_another_format_with_a_version_is_no_object_without_a_kind() {
    let mut folder = Folder::new();
    folder.write("Chart.yaml", "apiVersion: v1\nname: shop\nversion: 1.0.0\n");
    assert_eq!(folder.read().problems, Vec::<String>::new());
}

//! `tcplb kubectl explain`, which needs no cluster.

use crate::harness::run;

#[test]
fn sections_are_explained_without_a_cluster() {
    let (code, text, errors) = run(&["kubectl", "explain", "tcplbdrainstuck", "--kubeconfig", "/nonexistent"]);
    assert_eq!((code, errors.as_str()), (0, ""));
    assert!(text.starts_with("TcplbDrainStuck (alert)\n"), "{text}");
    let (code, list, _) = run(&["kubectl", "explain"]);
    assert!(code == 0 && list.contains("\nTcplbDrainStuck "), "{list}");
    let (code, text, errors) = run(&["kubectl", "explain", "TcplbDrainStuk"]);
    assert_eq!((code, text.as_str()), (1, ""));
    assert!(errors.contains("similar names: TcplbDrainStuck"), "{errors}");
}

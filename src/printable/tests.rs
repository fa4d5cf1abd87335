use proptest::prelude::*;

use super::*;

#[test]
fn invisible_characters_are_escaped() {
    for (text, expected) in [
        ("db.example.com: it's \"München\" \\ 東京", "db.example.com: it's \"München\" \\ 東京"),
        ("a\nb\r\tc\0", "a\\nb\\r\\tc\\0"),
        ("\x1b[31m\x7f\u{9b}2J", "\\u{1b}[31m\\u{7f}\\u{9b}2J"),
        ("a\u{202e}b\u{2066}c\u{200b}d\u{feff}", "a\\u{202e}b\\u{2066}c\\u{200b}d\\u{feff}"),
        ("a\u{2028}b\u{a0}c\u{e0041}", "a\\u{2028}b\\u{a0}c\\u{e0041}"),
    ] {
        assert_eq!(printable(text, 1000), expected);
    }
    assert!(matches!(printable("plain", 5), Cow::Borrowed("plain")));
    assert_eq!(printable_lines("a\nb\x1b\nc", 10), "a\nb\\u{1b}\nc");
}

#[test]
fn the_beginning_and_the_end_of_long_text_stay() {
    assert_eq!(limited("0123456789", 10), "0123456789");
    assert_eq!(limited("0123456789ab", 11), "012345…ab");
    assert_eq!(limited(&"ü".repeat(100), 11), "üüü…ü");
    assert_eq!(printable(&"\n".repeat(20_000_000), 11), "\\n\\n\\n\\n\\n\\n…\\n\\n");
}

#[test]
fn a_quoted_text_has_the_escapes_of_json() {
    assert_eq!(
        quoted("O=shop, CN=\"al\nice\" \\ \u{202e}\u{e0041}"),
        r#""O=shop, CN=\"al\nice\" \\ \u202e\udb40\udc41""#
    );
}

fn any_text() -> impl Strategy<Value = String> {
    let special = prop::sample::select(vec!['\n', '\x1b', '"', '\\', '\u{202e}', '\u{9b}', ' ', '=']);
    prop::collection::vec(prop_oneof![any::<char>(), special], 0..300).prop_map(String::from_iter)
}

proptest! {
    #[test]
    fn any_text_becomes_visible_and_bounded(text in any_text(), limit in 4_usize..200) {
        let shown = printable(&text, limit);
        prop_assert!(shown.chars().all(is_visible), "{shown:?}");
        prop_assert!(shown.len() <= 10 * limit, "{shown:?}");
        prop_assert!(limited(&text, limit).len() <= limit, "{text:?}");
        prop_assert_eq!(printable(&shown, 10_000), &*shown);
    }

    #[test]
    fn visible_json_has_the_same_values(text in any_text()) {
        let pretty = serde_json::to_string_pretty(&serde_json::json!({"a": [&text], "b": {&*text: 1}})).unwrap();
        let visible = visible_json(&pretty);
        prop_assert!(visible.chars().all(|c| c == '\n' || is_visible(c)), "{visible:?}");
        let (before, after): (serde_json::Value, serde_json::Value) =
            (serde_json::from_str(&pretty).unwrap(), serde_json::from_str(&visible).unwrap());
        prop_assert_eq!(before, after);
        prop_assert_eq!(serde_json::from_str::<String>(&quoted(&text)).unwrap(), text);
    }
}

use super::*;
use crate::model::ObjectKey;

fn key(object: (&str, &str), port: u16) -> ListenerKey {
    ListenerKey { object: ObjectKey::new(object.0, object.1), port }
}

#[test]
fn parameters_select_order_limit_and_connections() {
    let defaults = ConnectionParameters::parse("").unwrap();
    assert!(!defaults.follow && defaults.limit.is_none() && defaults.load_balancers.is_empty());
    assert_eq!(defaults.order, ConnectionOrder::Age);
    let query = "sort=idle&limit=7&loadBalancer=shop%2Fpg&listener=5432&endpoint=10.0.0.1:5432&client=10.0.0.0/8";
    let parameters = ConnectionParameters::parse(query).unwrap();
    assert_eq!((parameters.order, parameters.limit), (ConnectionOrder::Idle, Some(7)));
    assert!(parameters.load_balancers.matches(&key(("shop", "pg"), 5432)));
    let (client, endpoint) = ("10.9.9.9:1".parse().unwrap(), "10.0.0.1:5432".parse().ok());
    assert!(parameters.addresses.matches(client, endpoint));
    assert!(!parameters.addresses.matches(client, None));
    assert!(!parameters.addresses.matches("192.0.2.1:1".parse().unwrap(), endpoint));
}

#[test]
fn mapped_networks_select_the_ipv4_clients() {
    let endpoint = "10.0.0.1:5432".parse().ok();
    let addresses = ConnectionParameters::parse("client=::ffff:10.0.0.0/104").unwrap().addresses;
    assert!(addresses.matches("10.9.9.9:1".parse().unwrap(), endpoint));
    assert!(!addresses.matches("192.0.2.1:1".parse().unwrap(), endpoint));
}

#[test]
fn invalid_parameters_are_named_with_what_to_write() {
    for (query, expected) in [
        ("limit=0", "write a number from 1 to 10000"),
        ("limit=10001", "write a number from 1 to 10000"),
        ("sort=size", "age, newest, idle, bytes"),
        ("loadBalancer=pg", "write NAMESPACE/NAME"),
        ("listener=pg", "write the port of a listener"),
        ("endpoint=db", "write an IP address"),
        ("client=10.0.0.0/33", "not a network: write"),
        ("client=10.0.0.1/8", "write 10.0.0.0/8"),
        ("client=010.0.0.0/8", "10.0.0.0/8"),
        ("client=::ffff:10.0.0.0/8", "10.0.0.0/8"),
        ("listener=05432", "write the port of a listener"),
        ("follow=yes", "write true or false"),
        ("namspace=shop", "the parameters are follow, sort"),
        ("%1b[2J=1", "`\\u{1b}[2J=1`"),
    ] {
        let sentence = ConnectionParameters::parse(query).unwrap_err();
        assert!(sentence.contains(expected), "{query}: {sentence}");
    }
    let long = format!("namspace={}", "x".repeat(30_000));
    assert!(ConnectionParameters::parse(&long).unwrap_err().len() < 600);
}

#[test]
fn load_balancers_are_selected_by_key_and_label_alike() {
    let listeners =
        [key(("shop", "pg"), 5432), key(("shop", "pg"), 5433), key(("shop", "mq"), 5432), key(("bank", "pg"), 5432)];
    for (query, expected) in [
        ("", [true, true, true, true]),
        ("namespace=shop", [true, true, true, false]),
        ("loadBalancer=shop/pg", [true, true, false, false]),
        ("loadBalancer=shop/pg&listener=5433", [false, true, false, false]),
        ("listener=5432", [true, false, true, true]),
        ("namespace=sho", [false; 4]),
    ] {
        let filter = ConnectionParameters::parse(query).unwrap().load_balancers;
        assert_eq!(listeners.each_ref().map(|key| filter.matches(key)), expected, "{query}");
        assert_eq!(listeners.each_ref().map(|key| filter.matches_label(&key.to_string())), expected, "{query}");
    }
}

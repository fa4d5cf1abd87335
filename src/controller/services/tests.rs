use serde_json::json;

use super::*;

fn made_of(service: Value, ports: &[(u16, u16)]) -> Service {
    let spec = json!({
        "service": service,
        "listeners": [{"name": "db", "port": 5432}, {"port": 80, "nodePort": 30080}],
        "backends": [{"service": {"name": "db", "port": 5432}}],
    });
    let spec = serde_json::from_value(spec).unwrap();
    let load_balancer = ExposedLoadBalancer { key: &ObjectKey::new("shop", "db"), uid: "u1", spec: &spec };
    wanted(&load_balancer, &ports.iter().copied().collect(), &[], &Settings::of_a_gateway())
}

fn spec_of(service: Value) -> Value {
    serde_json::to_value(made_of(service, &[(5432, 20000)]).spec).unwrap()
}

#[test]
fn names_are_valid_and_unique_however_long_the_object_is_named() {
    let name = |namespace: &str, object: &str| name(&ObjectKey::new(namespace, object));
    assert_eq!(name("shop", "db"), "tcplb-db-f37651080496444b");
    assert_ne!(name("shop", "db"), name("shopd", "b"));
    let long = "a.".repeat(126) + "a";
    for object in ["db", "a.b", &long, &"x".repeat(40), &("x".repeat(39) + "-y")] {
        let name = name("shop", object);
        assert!(name.len() <= 63, "{name}");
        let valid = |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '-';
        assert!(name.chars().all(valid) && !name.contains("--"), "{name}");
    }
}

#[test]
fn a_service_names_its_owner_and_its_targets() {
    let service = serde_json::to_value(made_of(json!({}), &[(5432, 20000), (80, 20001)])).unwrap();
    let applied = &service["metadata"]["annotations"]["tcplb.io/applied"];
    assert_eq!(applied.as_str().unwrap().len(), 16);
    let expected = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {
            "name": name(&ObjectKey::new("shop", "db")), "namespace": "lb",
            "labels": {
                "app.kubernetes.io/managed-by": "tcplb", "tcplb.io/class": "tcplb",
                "tcplb.io/namespace": "shop", "tcplb.io/name": "db",
            },
            "annotations": {"tcplb.io/owner": "shop/db", "tcplb.io/uid": "u1", "tcplb.io/applied": applied},
        },
        "spec": {
            "type": "ClusterIP", "selector": {"app": "tcplb"}, "ipFamilyPolicy": "SingleStack",
            "internalTrafficPolicy": "Cluster", "sessionAffinity": "None", "publishNotReadyAddresses": false,
            "externalIPs": [],
            "ports": [
                {"name": "tcp-80", "port": 80, "protocol": "TCP", "targetPort": 20001},
                {"name": "db", "port": 5432, "protocol": "TCP", "targetPort": 20000},
            ],
        },
    });
    assert_eq!(service, expected);
}

#[test]
fn clients_keep_their_addresses_where_that_is_safe() {
    let policy = |service| spec_of(service)["externalTrafficPolicy"].clone();
    assert_eq!(policy(json!({})), Value::Null);
    assert_eq!(policy(json!({"type": "NodePort"})), "Cluster");
    assert_eq!(policy(json!({"type": "LoadBalancer"})), "Local");
    assert_eq!(policy(json!({"type": "LoadBalancer", "externalTrafficPolicy": "Cluster"})), "Cluster");
    assert_eq!(policy(json!({"type": "NodePort", "externalTrafficPolicy": "Local"})), "Local");
    assert_eq!(policy(json!({"type": "ClusterIP", "externalTrafficPolicy": "Local"})), Value::Null);
}

#[test]
fn the_template_adds_fields_and_replaces_none_of_ours() {
    let asked = json!({
        "type": "LoadBalancer", "loadBalancerClass": "example.com/lb", "ipFamilyPolicy": "PreferDualStack",
        "annotations": {"example.com/a": "b", "tcplb.io/owner": "other/x", "tcplb.io/applied": "x"},
        "labels": {"team": "shop", "tcplb.io/class": "other", "app.kubernetes.io/managed-by": "x"},
    });
    let service = serde_json::to_value(made_of(asked, &[(80, 20001)])).unwrap();
    assert_eq!(service["spec"]["loadBalancerClass"], "example.com/lb");
    assert_eq!(service["spec"]["ipFamilyPolicy"], "PreferDualStack");
    assert_eq!(service["spec"]["ports"][0]["nodePort"], 30080);
    let metadata = &service["metadata"];
    assert_eq!(metadata["annotations"]["example.com/a"], "b");
    assert_eq!(metadata["annotations"]["tcplb.io/owner"], "shop/db");
    assert_ne!(metadata["annotations"]["tcplb.io/applied"], "x");
    assert_eq!(metadata["labels"]["team"], "shop");
    assert_eq!(metadata["labels"]["tcplb.io/class"], "tcplb");
    assert_eq!(metadata["labels"]["app.kubernetes.io/managed-by"], "tcplb");
}

/// The Service as the API server stores it, with its defaults.
fn in_cluster(wanted: &Service) -> Service {
    let mut service = wanted.clone();
    service.metadata.resource_version = Some("5".into());
    service.metadata.annotations.get_or_insert_default().insert("cloud.example/x".into(), "y".into());
    let spec = service.spec.get_or_insert_default();
    spec.cluster_ip = Some("10.96.0.9".into());
    // The API server omits both.
    (spec.external_ips, spec.publish_not_ready_addresses) = (None, None);
    for port in spec.ports.iter_mut().flatten() {
        port.node_port = port.node_port.or(Some(31000));
    }
    service
}

#[test]
fn foreign_fields_are_ignored_and_changes_of_own_fields_detected() {
    let wanted = made_of(json!({"labels": {"team": "shop"}}), &[(5432, 20000), (80, 20001)]);
    let there = in_cluster(&wanted);
    assert!(is_up_to_date(&there, &wanted));
    let without_label = made_of(json!({}), &[(5432, 20000), (80, 20001)]);
    assert!(!is_up_to_date(&there, &without_label), "what was applied once is still there");
    assert!(!is_up_to_date(&there, &made_of(json!({"labels": {"team": "shop"}}), &[(5432, 20000)])));
    let edits: [fn(&mut Service); 7] = [
        |service| {
            service.spec.as_mut().unwrap().selector.as_mut().unwrap().insert("app".into(), "x".into()).map_or((), drop)
        },
        |service| service.spec.as_mut().unwrap().ports.as_mut().unwrap()[0].target_port = Some(IntOrString::Int(1)),
        |service| service.metadata.labels.as_mut().unwrap().remove("team").map_or((), drop),
        |service| service.spec.as_mut().unwrap().ports.as_mut().unwrap().truncate(1),
        // No pod has this label, so the Service would have no endpoints.
        |service| drop(service.spec.as_mut().unwrap().selector.as_mut().unwrap().insert("more".into(), "x".into())),
        |service| service.spec.as_mut().unwrap().external_ips = Some(vec!["192.0.2.1".into()]),
        |service| service.spec.as_mut().unwrap().publish_not_ready_addresses = Some(true),
    ];
    for edit in edits {
        let mut edited = there.clone();
        edit(&mut edited);
        assert!(!is_up_to_date(&edited, &wanted), "{edited:?}");
    }
}

#[test]
fn only_a_change_of_load_balancer_class_replaces_a_service() {
    let made = |service| made_of(service, &[(80, 20001)]);
    let there = made(json!({"type": "LoadBalancer", "loadBalancerClass": "a"}));
    let replaced = |wanted: Value| must_be_replaced(&there, &made(wanted));
    assert!(replaced(json!({"type": "LoadBalancer", "loadBalancerClass": "b"})));
    assert!(replaced(json!({"type": "LoadBalancer"})));
    assert!(!replaced(json!({"type": "LoadBalancer", "loadBalancerClass": "a"})));
    assert!(!replaced(json!({"type": "ClusterIP"})));
}

#[test]
fn only_services_of_ours_are_found() {
    let ours = made_of(json!({}), &[(5432, 20000)]);
    let mut world = World::default();
    let mut add = |mut service: Service, edit: fn(&mut Service)| {
        edit(&mut service);
        let metadata = &service.metadata;
        let key = ObjectKey::new(metadata.namespace.as_deref().unwrap(), metadata.name.as_deref().unwrap());
        world.services.insert(key, service.into());
    };
    add(ours.clone(), |service| service.metadata.namespace = Some("other".into()));
    add(made_of(json!({}), &[(5432, 20009)]), |service| service.metadata.name = Some("copy".into()));
    assert_eq!(managed(&world, &Settings::of_a_gateway()).len(), 0);
    let mut add = |service: Service| {
        let key = ObjectKey::new("lb", service.metadata.name.as_deref().unwrap());
        world.services.insert(key, service.into());
    };
    add(ours.clone());
    let found = managed(&world, &Settings::of_a_gateway());
    let (owner, managed) = found.iter().next().unwrap();
    assert_eq!((owner, managed.uid), (&ObjectKey::new("shop", "db"), "u1"));
    assert_eq!(managed.ports(), BTreeMap::from([(5432, 20000)]));
    let another = Settings { class: "b".into(), ..Settings::of_a_gateway() };
    let of_another = super::managed(&world, &another);
    assert_eq!(of_another.len(), 0);
    // Clients still connect through the other Services.
    assert_eq!(taken(&world, &found, &Settings::of_a_gateway()), BTreeSet::from([20009]));
    assert_eq!(taken(&world, &of_another, &another), BTreeSet::from([20000, 20009]));
}

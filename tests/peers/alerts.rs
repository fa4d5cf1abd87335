//! The alerts of the chart, evaluated by `promtool test rules` for given series.

use std::{collections::BTreeMap, fmt::Write};

use crate::{
    harness::Folder,
    needs,
    program::command,
    queries::{alerts, file},
};

/// The series of a cluster without faults, with a value for each minute.
const HEALTHY: [(&str, &str); 28] = [
    ("up{container='tcplb',namespace='tcplb-system',pod='tcplb-0',instance='a'}", "1+0x240"),
    (
        "tcplb_load_balancer_condition{load_balancer_namespace='shop',load_balancer='pg',type='Ready',status='True'}",
        "1+0x240",
    ),
    (
        "tcplb_load_balancer_condition{load_balancer_namespace='shop',load_balancer='pg',type='ClientAddressPreserved',status='False'}",
        "1+0x240",
    ),
    ("tcplb_listeners_unbound{instance='a'}", "0+0x240"),
    (
        "tcplb_upstream_endpoints{load_balancer_namespace='shop',load_balancer='pg',state='usable',pod='tcplb-0'}",
        "3+0x240",
    ),
    (
        "tcplb_upstream_endpoints{load_balancer_namespace='shop',load_balancer='pg',state='unusable',pod='tcplb-0'}",
        "1+0x240",
    ),
    // This replica has just started, and has not probed any endpoint.
    (
        "tcplb_upstream_endpoints{load_balancer_namespace='shop',load_balancer='pg',state='usable',pod='tcplb-1'}",
        "0 1+0x240",
    ),
    ("tcplb_connections_accepted_total{load_balancer_namespace='shop',load_balancer='pg',port='1'}", "0+1000x240"),
    (
        "tcplb_connections_closed_total{load_balancer_namespace='shop',load_balancer='pg',port='1',reason='complete'}",
        "0+1000x240",
    ),
    (
        "tcplb_connections_closed_total{load_balancer_namespace='shop',load_balancer='pg',port='1',reason='source_rate'}",
        "0+500x240",
    ),
    (
        "tcplb_connections_closed_total{load_balancer_namespace='shop',load_balancer='pg',port='1',reason='listener_full'}",
        "0+5x240",
    ),
    (
        "tcplb_connections_closed_total{load_balancer_namespace='shop',load_balancer='pg',port='1',reason='connect_failed'}",
        "0+40x240",
    ),
    (
        "tcplb_certificate_not_after_timestamp_seconds{load_balancer_namespace='shop',load_balancer='pg',port='1',certificate='a'}",
        "1000000+0x240",
    ),
    (
        "tcplb_backend_certificate_not_after_timestamp_seconds{load_balancer_namespace='shop',load_balancer='pg',backend='b',certificate='c'}",
        "1000000+0x240",
    ),
    ("tcplb_worker_connections_active{instance='a',worker='0'}", "300+0x240"),
    ("tcplb_worker_connections_active{instance='a',worker='1'}", "300+0x240"),
    ("tcplb_process_connections_limit{instance='a'}", "1000+0x240"),
    (
        "tcplb_connections_draining{load_balancer_namespace='shop',load_balancer='pg',reason='endpoint_removed'}",
        "9+0x240",
    ),
    ("tcplb_replicas{state='silent',pod='tcplb-0'}", "0+0x240"),
    ("tcplb_leader{lease='tcplb',namespace='tcplb-system',pod='tcplb-0'}", "1+0x240"),
    ("tcplb_leader{lease='tcplb',namespace='tcplb-system',pod='tcplb-1'}", "0+0x240"),
    ("tcplb_watch_outage_age_seconds{kind='Secret',pod='tcplb-0'}", "0 60 120 180 240 0+0x240"),
    ("tcplb_api_writes_total{resource='services',result='failed'}", "0+0.1x240"),
    ("tcplb_proxy_ports{state='free',pod='tcplb-0'}", "600+0x240"),
    ("tcplb_proxy_ports{state='allocated',pod='tcplb-0'}", "4400+0x240"),
    ("tcplb_build_info{version='1'}", "1+0x240"),
    // A replica has been replaced.
    ("tcplb_replicas{state='unready',pod='tcplb-0'}", "1+0x5 0+0x240"),
    // A rate limit has delayed the end of a drain. The other drains last for hours.
    (
        "tcplb_connections_draining_overdue{load_balancer_namespace='shop',load_balancer='pg',reason='endpoint_removed'}",
        "9+0x5 0+0x240",
    ),
];

/// Series that each cause an alert, instead of or in addition to the healthy ones.
const FAULTS: [(&str, &[(&str, &str)]); 19] = [
    (
        "TcplbLoadBalancerNotReady",
        &[
            (HEALTHY[1].0, "_x240"),
            (
                "tcplb_load_balancer_condition{load_balancer_namespace='shop',load_balancer='pg',type='Ready',status='Unknown'}",
                "1+0x240",
            ),
        ],
    ),
    ("TcplbListenerNotBound", &[(HEALTHY[3].0, "1+0x240")]),
    ("TcplbNoUsableEndpoints", &[(HEALTHY[4].0, "0+0x240"), (HEALTHY[6].0, "0+0x240")]),
    ("TcplbEndpointsUnhealthyShare", &[(HEALTHY[5].0, "5+0x240")]),
    ("TcplbConnectionsRefused", &[(HEALTHY[10].0, "0+20x240")]),
    ("TcplbConnectFailures", &[(HEALTHY[11].0, "0+60x240")]),
    ("TcplbCertificateExpiresSoon", &[(HEALTHY[12].0, "600000+0x240")]),
    ("TcplbCertificateExpiresSoon", &[(HEALTHY[13].0, "600000+0x240")]),
    ("TcplbDescriptorsNearLimit", &[(HEALTHY[15].0, "450+0x240")]),
    ("TcplbDrainStuck", &[(HEALTHY[27].0, "9+0x240")]),
    ("TcplbReplicasDown", &[(HEALTHY[0].0, "0+0x240")]),
    ("TcplbReplicasNotReady", &[(HEALTHY[26].0, "1+0x240")]),
    ("TcplbAbsent", &[(HEALTHY[25].0, "_x240")]),
    ("TcplbReplicasSilent", &[(HEALTHY[18].0, "1+0x240")]),
    ("TcplbNoLeader", &[(HEALTHY[19].0, "0+0x240")]),
    ("TcplbWatchFailing", &[(HEALTHY[21].0, "0+60x240")]),
    ("TcplbApiWritesFailing", &[(HEALTHY[22].0, "0+1x240")]),
    ("TcplbPortRangeNearlyExhausted", &[(HEALTHY[23].0, "400+0x240")]),
    ("TcplbConfigurationMismatch", &[("tcplb_configuration_mismatches_total", "0+0x150 1+0x90")]),
];

/// A case of `promtool test rules`: the alerts that fire after three hours.
fn case(faults: &[(&str, &str)], firing: Option<&str>) -> String {
    let series: BTreeMap<&str, &str> = HEALTHY.iter().chain(faults).copied().collect();
    let mut case = String::from("- interval: 1m\n  input_series:\n");
    for (series, values) in series {
        writeln!(case, "  - {{series: \"{series}\", values: \"{values}\"}}").unwrap();
    }
    let expected = firing.map(|alert| format!("{{labels: \"{{alertname='{alert}'}}\", value: 1}}")).unwrap_or_default();
    writeln!(
        case,
        "  promql_expr_test:\n  - expr: count by (alertname) (ALERTS{{alertstate='firing'}})\n    eval_time: 3h\n    \
         exp_samples: [{expected}]"
    )
    .unwrap();
    case
}

#[test]
fn each_alert_fires_for_its_fault_and_not_otherwise() {
    needs!("promtool");
    let names: Vec<String> = alerts().into_iter().map(|alert| alert.name).collect();
    for name in &names {
        assert!(FAULTS.iter().any(|(alert, _)| alert == name), "{name} has no fault");
    }
    let cases: String = FAULTS.iter().map(|(alert, faults)| case(faults, Some(alert))).collect();
    let rules = file("charts/tcplb/files/alerts.yaml");
    let folder = Folder::new();
    let text =
        format!("rule_files: ['{}']\nevaluation_interval: 5m\ntests:\n{}{cases}", rules.display(), case(&[], None));
    let tests = folder.write("tests.yaml", &text);
    for arguments in [["check", "rules", rules.to_str().unwrap()], ["test", "rules", &tests]] {
        let output = command("promtool").args(arguments).output().unwrap();
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert!(output.status.success(), "{arguments:?}: {said}");
    }
}

//! Alerts, dashboard and their guide name only metrics that the running services export.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use crate::metrics::{Sample, cloud_with_traffic, page, promtool, samples};

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/monitoring").join(name)
}

/// A metric in an expression: its name and its label matchers.
#[derive(Debug, PartialEq, Eq)]
struct Selector {
    name: String,
    /// Label, operator, value.
    labels: Vec<(String, String, String)>,
}

#[test]
fn promtool_accepts_the_rules_and_each_alert_has_a_test() {
    let alerts = file("alerts.yml");
    promtool(&["check", "rules", alerts.to_str().unwrap()], "");
    let tests = file("alerts_test.yml");
    promtool(&["test", "rules", tests.to_str().unwrap()], "");
    let (alerts, tests) = (fs::read_to_string(alerts).unwrap(), fs::read_to_string(tests).unwrap());
    for alert in alerts.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")) {
        assert!(tests.contains(&format!("alertname=\"{alert}\"")), "no test makes {alert} fire");
    }
}

#[tokio::test]
async fn every_metric_in_alerts_and_dashboard_is_exported_by_a_running_service() {
    let (cloud, device) = cloud_with_traffic().await;
    let mut exported: BTreeMap<String, Vec<Sample>> = BTreeMap::new();
    for admin in [cloud.hub.admin(), cloud.auth.admin(), device.admin()] {
        for sample in samples(&page(&admin).await) {
            exported.entry(sample.name.clone()).or_default().push(sample);
        }
    }
    let mut named = selectors_in(&fs::read_to_string(file("alerts.yml")).unwrap());
    let table = fs::read_to_string(file("README.md")).unwrap().replace("spoke_agent_…", "");
    named.extend(selectors_in(&table).into_iter().map(|named| {
        match exported.contains_key(&named.name) {
            true => named,
            // A histogram is exported in parts.
            false => Selector { name: named.name + "_bucket", ..named },
        }
    }));
    let dashboard = fs::read_to_string(file("dashboard.json")).unwrap();
    let dashboard: serde_json::Value = serde_json::from_str(&dashboard).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let targets = panels.iter().filter_map(|panel| panel["targets"].as_array()).flatten();
    let expressions: Vec<_> = targets.map(|target| target["expr"].as_str().unwrap()).collect();
    assert!(expressions.len() > 30);
    for expression in expressions {
        let found = selectors_in(expression);
        assert!(!found.is_empty(), "{expression} names no metric");
        named.extend(found);
    }
    for Selector { name, labels } in named {
        let samples = exported.get(&name).unwrap_or_else(|| panic!("no service exports {name}"));
        for (label, operator, words) in labels {
            let is_there = |word: &str| {
                let wanted = (label.clone(), word.to_owned());
                samples.iter().any(|sample| sample.labels.contains(&wanted))
            };
            let has_label = |sample: &Sample| sample.labels.iter().any(|(name, _)| *name == label);
            assert!(samples.iter().any(has_label), "{name} has no label {label}");
            // Which statuses exist depends on the requests so far.
            if label != "status" {
                for word in words.split('|') {
                    assert!(is_there(word), "{name}: no {label} is {word} ({operator})");
                }
            }
        }
    }
}

/// All metrics of Spoke in a text.
fn selectors_in(text: &str) -> Vec<Selector> {
    let mut named = Vec::new();
    let is_of_name = |c: char| c.is_ascii_lowercase() || c == '_';
    let words = text.match_indices("spoke_").filter(|(at, _)| !text[..*at].ends_with(is_of_name));
    for (at, _) in words {
        let rest = &text[at..];
        let end = rest.find(|c| !is_of_name(c)).unwrap_or(rest.len());
        let (name, rest) = rest.split_at(end);
        let matchers = rest.strip_prefix('{').and_then(|rest| rest.split_once('}'));
        let matchers = matchers.map_or("", |(matchers, _)| matchers);
        let labels = matchers.split(',').filter(|matcher| !matcher.is_empty()).map(|matcher| {
            let (label, word) = matcher.split_once(['=', '!']).unwrap();
            let value = word.trim_start_matches(['=', '~']);
            let operator = &matcher[label.len()..matcher.len() - value.len()];
            (label.trim().to_owned(), operator.to_owned(), value.trim_matches('"').to_owned())
        });
        named.push(Selector { name: name.to_owned(), labels: labels.collect() });
    }
    named
}

#[test]
fn metric_names_and_label_matchers_are_found_in_an_expression() {
    let found = selectors_in(r#"sum(rate(spoke_a_b_total{x!="u",y=~"v|w"}[5m])) > spoke_c"#);
    let label = |name: &str, operator: &str, value: &str| {
        (name.to_owned(), operator.to_owned(), value.to_owned())
    };
    let labels = vec![label("x", "!=", "u"), label("y", "=~", "v|w")];
    let first = Selector { name: "spoke_a_b_total".to_owned(), labels };
    assert_eq!(found, [first, Selector { name: "spoke_c".to_owned(), labels: Vec::new() }]);
}

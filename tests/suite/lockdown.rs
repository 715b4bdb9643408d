//! A kernel that hides keys: nothing is said to match that was not compared.

use crate::common::{applied, applied_host, mesh, observe, wanted};
use meshsec::{
    model::{KeyView, WarningCode},
    plan::Plan,
    render::{NO_OUTCOMES, ShowView, Subject, Verb, View, plan_json, report_text, show_json},
};

use crate::common::REQID;

#[test]
fn keys_that_the_kernel_hides_are_counted_and_match_nothing() {
    let config = mesh(1, &["192.0.2.1", "192.0.2.2", "192.0.2.3"]);
    let mut kernel = applied_host(&config);
    let plan = Plan::new(&wanted(&config).0, &observe(&mut kernel), REQID);
    assert_eq!((plan.hidden_keys, plan.warnings.len()), (0, 0));
    assert_eq!(plan.matches("mesh.toml"), "The kernel matches mesh.toml.");

    for sa in &mut kernel.state_mut().sas {
        sa.key = KeyView::Unknown;
    }
    let plan = Plan::new(&wanted(&config).0, &observe(&mut kernel), REQID);
    assert!(plan.is_empty(), "what can't be seen is not taken for another key");
    let codes: Vec<WarningCode> = plan.warnings.iter().map(|warning| warning.code).collect();
    assert_eq!((plan.hidden_keys, codes), (8, vec![WarningCode::KeysHidden]));
    let says = "The kernel matches mesh.toml, as far as it shows: 8 keys were not compared.";
    assert_eq!(plan.matches("mesh.toml"), says);
    let warning = plan.warnings[0].to_string();
    assert!(warning.contains("8 could not be compared") && warning.contains("raise"), "{warning}");
    let view = View {
        subject: Subject::File { config: &config, moment: config.rotation.at(kernel.now()) },
        local: Some(&config.peers[0]),
        plan: &plan,
        warnings: &[],
        outcomes: &NO_OUTCOMES,
        file: "mesh.toml",
    };
    let json = serde_json::to_value(plan_json(&view)).unwrap();
    assert_eq!(json["hidden_keys"], 8, "{json}");
    let live = observe(&mut kernel);
    let shown = ShowView { subject: view.subject, local: view.local, live: &live, all: false };
    assert_eq!(serde_json::to_value(show_json(&shown)).unwrap()["hidden_keys"], 8);
    let report = applied(&config, &mut kernel);
    let text = report_text(&report, "mesh.toml", Verb::Apply);
    assert_eq!(text, format!("Apply complete: 0 steps. {says}\n"));
}

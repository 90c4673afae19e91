//! `holdfast bench` on a cluster of its own: each workload measures something, and says what it cost. How fast is not judged.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::process::Command;

use serde_json::Value;

fn measured(workload: &[&str]) -> Value {
    let common = ["--local", "1", "--secs", "1", "--warm-up", "0", "--json"];
    let ended = Command::new(env!("CARGO_BIN_EXE_holdfast"))
        .arg("bench")
        .args(workload)
        .args(common)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&ended.stdout).into_owned();
    assert!(ended.status.success(), "{workload:?}: {ended:?}");
    serde_json::from_str(&said).unwrap()
}

fn number(it: &Value, path: &str) -> f64 {
    let found = it.pointer(path).and_then(Value::as_f64);
    found.unwrap_or_else(|| panic!("no {path} in {it}"))
}

#[test]
fn each_workload_tells_how_many_how_long_and_what_it_cost() {
    let workloads: [&[&str]; 7] = [
        &["raft", "--conc", "8"],
        &["steps", "--steps", "3", "--conc", "4"],
        &["latency", "--rate", "20"],
        &["signals", "--conc", "4"],
        &["timers", "--conc", "4", "--sleep-ms", "100"],
        &["payload", "--conc", "2"],
        &["fanout", "--conc", "1", "--steps", "10"],
    ];
    for workload in workloads {
        let it = measured(workload);
        assert!(number(&it, "/runs_per_s") > 0.0, "{it}");
        assert!(number(&it, "/p50_ms") <= number(&it, "/p99_ms"), "{it}");
        assert!(number(&it, "/errors").abs() < 0.5, "{it}");
        assert!(number(&it, "/spent/cpu_us") > 0.0, "{it}");
        assert!(number(&it, "/spent/disks/0/syncs_per_s") > 0.0, "{it}");
        for stage in ["queued", "synced", "committed", "applied"] {
            let ms = number(&it, &format!("/spent/stages_ms/{stage}"));
            assert!(ms > 0.0, "{stage} of {workload:?}: {it}");
        }
    }
}

#[test]
fn repeats_are_told_one_by_one_and_by_their_median() {
    let it = measured(&["steps", "--steps", "1", "--conc", "2", "--repeats", "3"]);
    let each = it["each"].as_array().unwrap();
    let mut all: Vec<f64> = each.iter().map(|it| number(it, "/runs_per_s")).collect();
    all.sort_by(f64::total_cmp);
    assert_eq!(all.len(), 3);
    assert!(
        (all[1] - number(&it, "/median/runs_per_s")).abs() < 1e-9,
        "{it}"
    );
}

//! `holdfast bench` on a cluster of its own: each workload measures something, and says what it cost. How fast is not judged.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::process::Command;

use serde_json::Value;

fn measured(workload: &[&str]) -> Value {
    serde_json::from_str(&said(workload, "1")).unwrap()
}

fn said(workload: &[&str], nodes: &str) -> String {
    let common = ["--local", nodes, "--secs", "1", "--warm-up", "0", "--json"];
    let ended = Command::new(env!("CARGO_BIN_EXE_holdfast"))
        .arg("bench")
        .args(workload)
        .args(common)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&ended.stdout).into_owned();
    assert!(ended.status.success(), "{workload:?}: {ended:?}");
    said
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

#[test]
fn a_store_that_grows_is_measured_part_by_part_and_then_loses_its_leader() {
    let grows = [
        "scale",
        "--finished",
        "60",
        "--waiting",
        "20",
        "--parts",
        "2",
    ];
    let said = said(&grows, "3");
    let lines = said.lines().map(|line| serde_json::from_str(line).unwrap());
    let lines: Vec<Value> = lines.collect();
    let names: Vec<&str> = lines.iter().filter_map(|it| it["bench"].as_str()).collect();
    let parts = [
        "scale 0 finished, 0 waiting",
        "scale 30 finished, 10 waiting",
        "scale 60 finished, 20 waiting",
    ];
    assert_eq!(
        names,
        [
            parts[0], "scale", parts[1], "scale", parts[2], "scale", "scale"
        ]
    );
    for part in 0..3 {
        assert!(number(&lines[part * 2], "/steps_per_s") > 0.0, "{said}");
        let disk = number(&lines[part * 2 + 1], "/nodes/2/disk_bytes");
        assert!(disk > 0.0, "{said}");
    }
    assert!(number(&lines[6], "/takeover_first_step_ms") > 0.0);
    assert!(number(&lines[6], "/restart_ready_ms") > 0.0);
}

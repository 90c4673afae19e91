//! What a seed draws before it begins: the cluster, its habits, and which faults are on at all.
//!
//! Invariant: everything random about the configuration is drawn here, in a fixed order, so that a seed says what it is.

use holdfast_raft::host::sim::net::Link;
use holdfast_raft::host::sim::{Habits, Rng};
use holdfast_raft::{Keep, Profile};

use super::spoil::Spoil;

/// Which faults a seed has at all: random ones are off by chance, so that rare pairs stand alone now and then.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Faults {
    pub kill: bool,
    pub power: bool,
    pub long_outage: bool,
    pub cut: bool,
    pub one_way: bool,
    pub flap: bool,
    pub slow_link: bool,
    pub slow_disk: bool,
    pub transfer: bool,
    pub membership: bool,
    pub all_at_once: bool,
    pub pause: bool,
    pub clock: bool,
}

/// The configuration of one seed.
#[derive(Debug, Clone)]
pub struct Plan {
    pub voters: u64,
    pub partitions: u32,
    pub profile: Profile,
    pub takeover: bool,
    pub keep: Keep,
    pub habits: Habits,
    pub link: Link,
    pub faults: Faults,
    pub spoil: Spoil,
    /// Between two faults, in ms, on average.
    pub fault_every_ms: u64,
    /// Between two asks of clients, in ms, on average.
    pub ask_every_ms: u64,
    /// Asks sent in one go.
    pub burst_max: u64,
    /// How long faults go on, in ms.
    pub storm_ms: u64,
    /// How far wall clocks are off, in ms.
    pub skew_ms_max: u64,
    pub workers: u64,
}

impl Plan {
    pub fn draw(seed: u64, rng: &mut Rng) -> Self {
        let voters = [1, 2, 3, 3, 3, 3, 4, 5][usize::try_from(rng.below(8)).unwrap_or(2)];
        let faults = Faults {
            kill: rng.percent(60),
            power: rng.percent(40),
            long_outage: rng.percent(30),
            cut: rng.percent(50),
            one_way: rng.percent(40),
            flap: rng.percent(20),
            slow_link: rng.percent(30),
            slow_disk: rng.percent(40),
            transfer: rng.percent(30),
            membership: rng.percent(25),
            all_at_once: rng.percent(20),
            pause: rng.percent(30),
            clock: rng.percent(25),
        };
        let profile = match rng.below(4) {
            0 => Profile::Wan,
            1 => {
                let heartbeat_ms = rng.within(20, 120);
                let election_min_ms = heartbeat_ms * rng.within(3, 6);
                Profile::Custom {
                    heartbeat_ms,
                    election_min_ms,
                    election_max_ms: election_min_ms * 2,
                }
            }
            _ => Profile::Lan,
        };
        let bursts = rng.percent(30);
        Self {
            voters,
            partitions: if rng.percent(25) { 2 } else { 1 },
            profile,
            takeover: rng.percent(70),
            keep: Keep {
                snapshot_entries: rng.within(1, 100),
                entries: if rng.percent(70) {
                    0
                } else {
                    rng.within(1, 60)
                },
            },
            habits: Habits {
                sync_ms_max: rng.within(0, 12),
                stall_permille: if faults.slow_disk {
                    rng.within(1, 20)
                } else {
                    0
                },
                stall_ms_max: rng.within(50, 900),
                apply_ms_max: if rng.percent(30) {
                    rng.within(1, 20)
                } else {
                    0
                },
                sync_fails_ppm: if rng.percent(20) {
                    rng.within(20, 300)
                } else {
                    0
                },
                dies_at_sync_ppm: if rng.percent(30) {
                    rng.within(50, 600)
                } else {
                    0
                },
            },
            link: {
                let delay_ms_min = rng.within(1, 3);
                Link {
                    delay_ms_min,
                    delay_ms_max: delay_ms_min + rng.below(12),
                    lost_permille: if rng.percent(30) {
                        rng.within(1, 20)
                    } else {
                        0
                    },
                    is_cut: false,
                }
            },
            faults,
            spoil: Spoil::draw(seed, voters >= 3 && !faults.membership),
            fault_every_ms: rng.within(500, 4_000),
            ask_every_ms: if bursts {
                rng.within(400, 1_500)
            } else {
                rng.within(15, 150)
            },
            burst_max: if bursts { 40 } else { 2 },
            storm_ms: if faults.long_outage {
                rng.within(14_000, 24_000)
            } else {
                rng.within(8_000, 16_000)
            },
            skew_ms_max: if rng.percent(30) {
                rng.within(100, 600_000)
            } else {
                rng.below(20)
            },
            workers: rng.within(0, 2),
        }
    }

    /// The plainest cluster: three nodes, nothing goes wrong by itself.
    pub fn calm() -> Self {
        Self {
            voters: 3,
            partitions: 1,
            profile: Profile::Lan,
            takeover: true,
            keep: Keep {
                snapshot_entries: 50,
                entries: 0,
            },
            habits: Habits::GOOD,
            link: Link::GOOD,
            faults: Faults::default(),
            spoil: Spoil::default(),
            fault_every_ms: 1_000,
            ask_every_ms: 25,
            burst_max: 2,
            storm_ms: 10_000,
            skew_ms_max: 0,
            workers: 1,
        }
    }

    /// For people.
    pub fn line(&self) -> String {
        format!(
            "voters {} partitions {} {:?} takeover {} keep {}/{} disk {:?} link {:?} {:?} {:?} storm {} ms",
            self.voters,
            self.partitions,
            self.profile,
            self.takeover,
            self.keep.snapshot_entries,
            self.keep.entries,
            self.habits,
            self.link,
            self.faults,
            self.spoil,
            self.storm_ms
        )
    }
}

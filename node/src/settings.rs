//! Settings: TOML file, environment and flags become one checked [`Settings`], or one list of all that is wrong.
//!
//! Invariant: whoever holds a `Settings` need not check it again; each key and its default stand in `KEYS`, and nowhere
//! else. Not here: what a setting does.

use std::{
    collections::BTreeMap,
    fmt::{self, Write as _},
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use holdfast_raft::{Keep, Profile, log::Durability};

/// What stands before every variable of ours.
const ENVIRONMENT_PREFIX: &str = "HOLDFAST_";

/// One key: its name, its default as text, and what it means.
struct KeyDef {
    name: &'static str,
    default: &'static str,
    about: &'static str,
}

const fn key(name: &'static str, default: &'static str, about: &'static str) -> KeyDef {
    KeyDef {
        name,
        default,
        about,
    }
}

const KEYS: [KeyDef; 29] = [
    key(
        "node.id",
        "",
        "this node's number, 1 or more; never that of an earlier node",
    ),
    key(
        "node.data",
        "/var/lib/holdfast",
        "folder for the log and the state",
    ),
    key(
        "listen.api",
        "127.0.0.1:7100",
        "where clients and workers connect",
    ),
    key(
        "listen.peer",
        "127.0.0.1:7101",
        "where the other nodes connect",
    ),
    key(
        "listen.admin",
        "127.0.0.1:7102",
        "where /metrics, /livez and /readyz are served",
    ),
    key(
        "advertise.api",
        "",
        "how clients reach listen.api, HOST:PORT, when it listens on every address",
    ),
    key(
        "advertise.peer",
        "",
        "how other nodes reach listen.peer, HOST:PORT, when it listens on every address",
    ),
    key(
        "cluster.name",
        "",
        "refuse to serve a cluster of another name",
    ),
    key(
        "cluster.seeds",
        "",
        "peer addresses of other nodes, asked at the first start",
    ),
    key(
        "raft.profile",
        "lan",
        "lan, wan, or custom; the same on all nodes",
    ),
    key(
        "raft.heartbeat",
        "60ms",
        "with profile custom: between two heartbeats",
    ),
    key(
        "raft.election_min",
        "200ms",
        "with profile custom: the shortest election timeout",
    ),
    key(
        "raft.election_max",
        "400ms",
        "with profile custom: the longest, and the leader's lease",
    ),
    key(
        "raft.takeover",
        "true",
        "take over at once from a leader whose process is gone",
    ),
    key(
        "raft.snapshot_entries",
        "50000",
        "after how many log entries the state is flushed",
    ),
    key(
        "raft.keep_entries",
        "20000",
        "log entries kept after that for followers that lag; others get a snapshot",
    ),
    key("lease.beat", "1s", "how often a worker says that it lives"),
    key(
        "lease.term",
        "5s",
        "after how long without a beat a worker is lost",
    ),
    key(
        "retention.completed",
        "7d",
        "how long a run that completed is kept after its end",
    ),
    key(
        "retention.failed",
        "30d",
        "how long a run that ended otherwise is kept after its end",
    ),
    key(
        "retention.ids",
        "90d",
        "how long the id of a run is remembered after its end; no less than what is kept of it",
    ),
    key(
        "disk.soft",
        "15",
        "percent free below which new starts are refused",
    ),
    key(
        "disk.hard",
        "5",
        "percent free below which leadership moves away and proposals are refused",
    ),
    key(
        "telemetry.log",
        "info,openraft=error",
        "log filter: error, warn, info, or per module as in info,openraft=warn",
    ),
    key(
        "telemetry.format",
        "auto",
        "text, json, or auto: text on a terminal",
    ),
    key(
        "insecure",
        "false",
        "allow addresses other than loopback, without authentication or encryption",
    ),
    key(
        "testing.clock_ahead",
        "0s",
        "for tests: how far this node's wall clock is moved ahead",
    ),
    key(
        "testing.chaos_tap",
        "",
        "for tests: append what this node applies to this file, one JSON line an entry",
    ),
    key(
        "testing.unsynced",
        "false",
        "for data that nobody keeps: acknowledges without waiting for the disk, and loses it with the machine",
    ),
];

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// Ours.
    Default,
    /// The file.
    File(PathBuf),
    /// This variable.
    Environment(String),
    /// The command line.
    Flag,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path) => write!(f, "file {}", path.display()),
            Self::Environment(name) => write!(f, "environment {name}"),
            Self::Flag => f.write_str("flag"),
        }
    }
}

/// What stands above the defaults, lowest first: a file, the environment, flags.
#[derive(Debug, Clone, Default)]
pub struct Overrides {
    /// The TOML file, if any.
    pub file: Option<PathBuf>,
    /// Environment variables; only those named `HOLDFAST_A__B` are looked at.
    pub environment: Vec<(String, String)>,
    /// Keys set on the command line, such as `("listen.api", "127.0.0.1:7100")`.
    pub flags: Vec<(String, String)>,
}

impl Overrides {
    /// With this process's environment.
    pub fn from_environment() -> Self {
        // Variables that are not text cannot be ours.
        let text = std::env::vars_os().filter_map(|(name, value)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        });
        Self {
            environment: text.collect(),
            ..Self::default()
        }
    }

    /// Sets a key as a flag does.
    #[must_use]
    pub fn set(mut self, key: &str, value: impl fmt::Display) -> Self {
        self.flags.push((key.to_owned(), value.to_string()));
        self
    }
}

/// Checked settings of one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// This node's number.
    pub node: u64,
    /// Its data folder.
    pub data: PathBuf,
    /// Where it listens.
    pub listen: Listen,
    /// How others reach it.
    pub advertise: Advertise,
    /// The name that the cluster must have, if any.
    pub cluster_name: Option<String>,
    /// Peer addresses asked at the first start.
    pub seeds: Vec<String>,
    /// How quickly the cluster notices a dead leader.
    pub profile: Profile,
    /// Whether a follower takes over at once from a leader whose process is gone.
    pub takeover: bool,
    /// How much log is kept.
    pub keep: Keep,
    /// Leases of workers.
    pub lease: LeaseTimes,
    /// How long is kept what is left of runs that ended.
    pub retention: Retention,
    /// Marks of the disk.
    pub disk: DiskMarks,
    /// Log filter.
    pub log: String,
    /// How log lines look.
    pub log_format: LogFormat,
    /// Whether addresses other than loopback are allowed.
    pub insecure: bool,
    /// For tests: how far the wall clock is moved ahead.
    pub clock_ahead: Duration,
    /// For tests: where what is applied is written, line by line.
    pub chaos_tap: Option<PathBuf>,
    /// When the log waits for the disk.
    pub sync: Durability,
    sources: BTreeMap<&'static str, (String, Source)>,
}

/// Where a node listens. Port 0 takes a free one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listen {
    /// Clients and workers.
    pub api: SocketAddr,
    /// Other nodes.
    pub peer: SocketAddr,
    /// `/metrics`, `/livez`, `/readyz`.
    pub admin: SocketAddr,
}

/// How a node is reached, `HOST:PORT`; none: at the address it listens on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Advertise {
    /// By clients and workers.
    pub api: Option<String>,
    /// By other nodes.
    pub peer: Option<String>,
}

/// How a worker's life is noticed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseTimes {
    /// Between two beats.
    pub beat: Duration,
    /// Without a beat for so long, a worker is lost.
    pub term: Duration,
}

/// How long is kept what is left of a run, counted from its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// All of it, if it completed.
    pub completed: Duration,
    /// All of it, if it ended otherwise.
    pub failed: Duration,
    /// How it ended.
    pub ids: Duration,
}

/// Shares of free space, in percent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskMarks {
    /// Below it new starts are refused.
    pub soft_percent: u8,
    /// Below it leadership moves away and proposals are refused.
    pub hard_percent: u8,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// Text on a terminal, JSON otherwise.
    Auto,
    /// One readable line.
    Text,
    /// One JSON object a line.
    Json,
}

/// All that is wrong with the settings, together.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct SettingsError(pub Vec<String>);

impl Settings {
    /// Reads file, environment and flags, and checks all of it.
    ///
    /// # Errors
    /// Every fault found, each with what to do.
    pub fn load(overrides: &Overrides) -> Result<Self, SettingsError> {
        let mut reading = Reading::default();
        reading.layers(overrides);
        let settings = reading.settings();
        if reading.faults.is_empty() {
            Ok(settings)
        } else {
            Err(SettingsError(reading.faults))
        }
    }

    /// Reads the text of a settings file, and nothing else.
    ///
    /// # Errors
    /// As for [`Settings::load`].
    pub fn parse(text: &str) -> Result<Self, SettingsError> {
        let mut reading = Reading::default();
        reading.layers(&Overrides::default());
        reading.toml(text, Path::new("the text"));
        let settings = reading.settings();
        if reading.faults.is_empty() {
            Ok(settings)
        } else {
            Err(SettingsError(reading.faults))
        }
    }

    /// Whether both mean the same, wherever their values came from.
    pub fn means(&self, other: &Self) -> bool {
        let bare = |it: &Self| Self {
            sources: BTreeMap::new(),
            ..it.clone()
        };
        bare(self) == bare(other)
    }

    /// The effective settings as TOML, each with its source.
    pub fn dump(&self) -> String {
        let mut text = String::new();
        let mut table = "";
        // Keys outside any table come first, as TOML wants it.
        let inside = |def: &&KeyDef| def.name.contains('.');
        let keys = KEYS
            .iter()
            .filter(|def| !inside(def))
            .chain(KEYS.iter().filter(inside));
        for def in keys {
            let Some((value, source)) = self.sources.get(def.name) else {
                continue;
            };
            let (of, name) = def.name.rsplit_once('.').unwrap_or(("", def.name));
            if of != table {
                table = of;
                writeln!(text, "\n[{table}]").expect("a String takes all text");
            }
            let value = as_toml(def.name, value);
            writeln!(text, "{name} = {value}  # {source}; {}", def.about)
                .expect("a String takes all text");
        }
        text
    }

    /// The address given to clients: what is advertised, or where the node really listens.
    pub fn api_address(&self, bound: SocketAddr) -> String {
        self.advertise
            .api
            .clone()
            .unwrap_or_else(|| bound.to_string())
    }

    /// The address given to other nodes: what is advertised, or where the node really listens.
    pub fn peer_address(&self, bound: SocketAddr) -> String {
        self.advertise
            .peer
            .clone()
            .unwrap_or_else(|| bound.to_string())
    }
}

fn as_toml(name: &str, value: &str) -> String {
    let text = |value: &str| toml::Value::String(value.to_owned());
    let value = match name {
        "cluster.seeds" => toml::Value::Array(split(value).map(text).collect()),
        "node.id"
        | "disk.soft"
        | "disk.hard"
        | "insecure"
        | "testing.unsynced"
        | "raft.takeover"
        | "raft.snapshot_entries"
        | "raft.keep_entries" => {
            let number = value.parse().map(toml::Value::Integer);
            let truth = value.parse().map(toml::Value::Boolean);
            number
                .or(truth)
                .unwrap_or_else(|_: std::str::ParseBoolError| text(value))
        }
        _ => text(value),
    };
    value.to_string()
}

fn split(list: &str) -> impl Iterator<Item = &str> {
    list.split(',')
        .map(str::trim)
        .filter(|item| !item.is_empty())
}

/// Values as they are gathered, and what is wrong so far.
#[derive(Default)]
struct Reading {
    values: BTreeMap<&'static str, (String, Source)>,
    faults: Vec<String>,
}

impl Reading {
    fn layers(&mut self, overrides: &Overrides) {
        for def in &KEYS {
            self.values
                .insert(def.name, (def.default.to_owned(), Source::Default));
        }
        if let Some(path) = &overrides.file {
            self.file(path);
        }
        for (variable, value) in &overrides.environment {
            let Some(name) = variable.strip_prefix(ENVIRONMENT_PREFIX) else {
                continue;
            };
            // Without a double underscore it is somebody else's, such as the client's HOLDFAST_ENDPOINTS.
            let name = name.to_ascii_lowercase().replace("__", ".");
            if name.contains('.') || name == "insecure" {
                self.put(&name, value.clone(), Source::Environment(variable.clone()));
            }
        }
        for (name, value) in &overrides.flags {
            self.put(name, value.clone(), Source::Flag);
        }
    }

    fn file(&mut self, path: &Path) {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(cause) => {
                return self.fault(format!(
                    "the settings file {} cannot be read: {cause}",
                    path.display()
                ));
            }
        };
        self.toml(&text, path);
    }

    fn toml(&mut self, text: &str, path: &Path) {
        match text.parse::<toml::Table>() {
            Ok(table) => self.table("", &table, path),
            Err(cause) => self.fault(format!("{} is not TOML: {cause}", path.display())),
        }
    }

    fn table(&mut self, prefix: &str, table: &toml::Table, path: &Path) {
        for (name, value) in table {
            let name = if prefix.is_empty() {
                name.clone()
            } else {
                format!("{prefix}.{name}")
            };
            match value {
                toml::Value::Table(inner) => self.table(&name, inner, path),
                value => match plain(value) {
                    Some(text) => self.put(&name, text, Source::File(path.to_owned())),
                    None => self.fault(format!("{name}: a date or a nested list is not a setting")),
                },
            }
        }
    }

    fn put(&mut self, name: &str, value: String, source: Source) {
        if let Some(def) = KEYS.iter().find(|def| def.name == name) {
            self.values.insert(def.name, (value, source));
            return;
        }
        let nearest = KEYS.iter().min_by_key(|def| distance(def.name, name));
        let nearest = nearest.map_or("", |def| def.name);
        self.fault(format!(
            "{name} ({source}) is no setting; did you mean {nearest}?"
        ));
    }

    fn fault(&mut self, what: String) {
        self.faults.push(what);
    }

    fn text(&self, name: &'static str) -> String {
        self.values
            .get(name)
            .map(|(value, _)| value.clone())
            .unwrap_or_default()
    }

    fn optional(&self, name: &'static str) -> Option<String> {
        Some(self.text(name)).filter(|text| !text.is_empty())
    }

    /// Parses a value; what cannot be parsed is a fault, and stands in as `instead` until all faults are told.
    fn parse<T>(
        &mut self,
        name: &'static str,
        instead: T,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> T {
        let (value, source) = self
            .values
            .get(name)
            .cloned()
            .expect("every key has a value");
        parse(&value).unwrap_or_else(|why| {
            self.fault(format!("{name} = {value:?} ({source}): {why}"));
            instead
        })
    }

    fn address(&mut self, name: &'static str, insecure: bool) -> SocketAddr {
        let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
        self.parse(name, loopback, |text| {
            let address: SocketAddr = text
                .replace("localhost", "127.0.0.1")
                .parse()
                .map_err(|_| "give an address and a port, such as 127.0.0.1:7100".to_owned())?;
            if !insecure && !is_loopback(address.ip()) {
                return Err("without authentication a node listens on loopback only; \
                            add --insecure to allow it, if the network is yours alone"
                    .to_owned());
            }
            Ok(address)
        })
    }

    fn advertised(&mut self, name: &'static str, listens: SocketAddr) -> Option<String> {
        let value = self.optional(name);
        if let Some(value) = &value
            && value
                .rsplit_once(':')
                .and_then(|(_, port)| port.parse::<u16>().ok())
                .is_none()
        {
            self.fault(format!("{name} = {value:?}: give HOST:PORT"));
        }
        if value.is_none() && listens.ip().is_unspecified() {
            self.fault(format!("{name} is needed, since {listens} is no address that others can call; give HOST:PORT"));
        }
        value
    }

    fn span(&mut self, name: &'static str) -> Duration {
        self.parse(name, Duration::from_secs(1), duration)
    }

    fn profile(&mut self) -> Profile {
        let ms = |span: Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        let custom = Profile::Custom {
            heartbeat_ms: ms(self.span("raft.heartbeat")),
            election_min_ms: ms(self.span("raft.election_min")),
            election_max_ms: ms(self.span("raft.election_max")),
        };
        let profile = self.parse("raft.profile", Profile::Lan, |text| match text {
            "lan" => Ok(Profile::Lan),
            "wan" => Ok(Profile::Wan),
            "custom" => Ok(custom),
            _ => Err("it is lan, wan or custom".to_owned()),
        });
        if let Err(cause) = profile.verify() {
            self.fault(cause.to_string());
        }
        profile
    }

    fn retention(&mut self) -> Retention {
        let completed = self.span("retention.completed");
        let failed = self.span("retention.failed");
        let ids = self.span("retention.ids");
        let longest = completed.max(failed);
        if ids < longest {
            self.fault(format!(
                "retention.ids = {ids:?}: not less than runs are kept, {longest:?}"
            ));
        }
        Retention {
            completed,
            failed,
            ids,
        }
    }

    fn lease(&mut self, profile: Profile) -> LeaseTimes {
        let (beat, term) = (self.span("lease.beat"), self.span("lease.term"));
        // A worker stops its steps one election lease plus 500 ms before the term ends; two beats must fit before that.
        let least = beat * 2 + profile.lease() + STOP_MARGIN_ABOVE_LEASE;
        if beat < Duration::from_millis(50) {
            self.fault(format!("lease.beat = {beat:?}: 50ms or more"));
        }
        if term < least {
            self.fault(format!("lease.term = {term:?} is too short: two beats, the election lease and 500ms make {least:?}"));
        }
        LeaseTimes { beat, term }
    }

    fn disk(&mut self) -> DiskMarks {
        let percent = |text: &str| match text.trim_end_matches(['%', ' ']).parse::<u8>() {
            Ok(percent) if percent <= 90 => Ok(percent),
            _ => Err("a percentage from 0 to 90".to_owned()),
        };
        let soft_percent = self.parse("disk.soft", 15, percent);
        let hard_percent = self.parse("disk.hard", 5, percent);
        if hard_percent > soft_percent {
            self.fault(format!("disk.hard = {hard_percent} is above disk.soft = {soft_percent}; the soft mark comes first"));
        }
        DiskMarks {
            soft_percent,
            hard_percent,
        }
    }

    fn settings(&mut self) -> Settings {
        let insecure = self.parse("insecure", false, boolean);
        let listen = Listen {
            api: self.address("listen.api", insecure),
            peer: self.address("listen.peer", insecure),
            admin: self.address("listen.admin", insecure),
        };
        for (one, other) in [("api", "peer"), ("api", "admin"), ("peer", "admin")] {
            let of = |which| match which {
                "api" => listen.api,
                "peer" => listen.peer,
                _ => listen.admin,
            };
            if of(one) == of(other) && of(one).port() != 0 {
                self.fault(format!(
                    "listen.{one} and listen.{other} are both {}; give each its own port",
                    of(one)
                ));
            }
        }
        let advertise = Advertise {
            api: self.advertised("advertise.api", listen.api),
            peer: self.advertised("advertise.peer", listen.peer),
        };
        let profile = self.profile();
        let node = self.parse("node.id", 1, |text| match text.parse::<u64>() {
            Ok(id) if id > 0 => Ok(id),
            _ if text.is_empty() => Err("give this node a number, such as --node-id 1".to_owned()),
            _ => Err("a number from 1".to_owned()),
        });
        Settings {
            node,
            data: PathBuf::from(self.text("node.data")),
            listen,
            advertise,
            cluster_name: self.optional("cluster.name"),
            seeds: split(&self.text("cluster.seeds"))
                .map(str::to_owned)
                .collect(),
            profile,
            takeover: self.parse("raft.takeover", true, boolean),
            keep: Keep {
                snapshot_entries: self.parse("raft.snapshot_entries", 1, entries),
                entries: self.parse("raft.keep_entries", 1, entries),
            },
            lease: self.lease(profile),
            retention: self.retention(),
            disk: self.disk(),
            log: self.text("telemetry.log"),
            log_format: self.parse("telemetry.format", LogFormat::Auto, |text| match text {
                "auto" => Ok(LogFormat::Auto),
                "text" => Ok(LogFormat::Text),
                "json" => Ok(LogFormat::Json),
                _ => Err("it is auto, text or json".to_owned()),
            }),
            insecure,
            clock_ahead: self.span("testing.clock_ahead"),
            chaos_tap: self.optional("testing.chaos_tap").map(PathBuf::from),
            sync: if self.parse("testing.unsynced", false, boolean) {
                Durability::Unsynced
            } else {
                Durability::Synced
            },
            sources: self.values.clone(),
        }
    }
}

/// On top of the election lease, how long before its term's end a worker stops its steps.
pub const STOP_MARGIN_ABOVE_LEASE: Duration = Duration::from_millis(500);

fn is_loopback(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(it) => it.is_loopback(),
        IpAddr::V6(it) => {
            it.is_loopback() || it.to_ipv4_mapped().is_some_and(|v4| v4.is_loopback())
        }
    }
}

fn plain(value: &toml::Value) -> Option<String> {
    match value {
        toml::Value::String(it) => Some(it.clone()),
        toml::Value::Integer(it) => Some(it.to_string()),
        toml::Value::Float(it) => Some(it.to_string()),
        toml::Value::Boolean(it) => Some(it.to_string()),
        toml::Value::Array(items) => {
            let items: Option<Vec<String>> = items.iter().map(plain).collect();
            Some(items?.join(","))
        }
        toml::Value::Datetime(_) | toml::Value::Table(_) => None,
    }
}

fn boolean(text: &str) -> Result<bool, String> {
    match text {
        "true" | "1" | "yes" => Ok(true),
        "false" | "0" | "no" => Ok(false),
        _ => Err("it is true or false".to_owned()),
    }
}

fn entries(text: &str) -> Result<u64, String> {
    match text.parse() {
        Ok(count) if count > 0 => Ok(count),
        _ => Err("it is a number of log entries from 1".to_owned()),
    }
}

/// A number with its unit: `250ms`, `30s`, `5m`, `2h`, `3d`.
fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || "give a number and a unit: 250ms, 30s, 5m, 2h, 3d".to_owned();
    let unit_at = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
    let (number, unit) = text.split_at(unit_at);
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let unit_ms: u64 = match unit.trim() {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(wrong()),
    };
    number
        .checked_mul(unit_ms)
        .map(Duration::from_millis)
        .ok_or_else(wrong)
}

/// How many letters differ.
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (nth, letter) in one.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = nth + 1;
        for (at, theirs) in other.iter().enumerate() {
            let replaced = diagonal + usize::from(letter != *theirs);
            diagonal = row[at + 1];
            row[at + 1] = replaced.min(diagonal + 1).min(row[at] + 1);
        }
    }
    row[other.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags() -> Overrides {
        Overrides::default().set("node.id", 1)
    }

    fn faults(overrides: &Overrides) -> Vec<String> {
        Settings::load(overrides).unwrap_err().0
    }

    #[test]
    fn the_defaults_need_only_a_node_id() {
        let settings = Settings::load(&flags()).unwrap();
        assert_eq!(settings.listen.api.to_string(), "127.0.0.1:7100");
        assert_eq!(settings.profile, Profile::Lan);
        let faults = faults(&Overrides::default());
        assert_eq!(faults.len(), 1);
        assert!(faults[0].contains("node.id"), "{faults:?}");
    }

    #[test]
    fn a_flag_beats_the_environment_beats_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("holdfast.toml");
        std::fs::write(
            &path,
            "[node]\nid = 7\n[lease]\nbeat = \"2s\"\nterm = \"9s\"\n[disk]\nsoft = 20\n",
        )
        .unwrap();
        let mut overrides = Overrides {
            file: Some(path),
            ..Overrides::default()
        };
        overrides.environment = vec![
            ("HOLDFAST_LEASE__BEAT".into(), "3s".into()),
            ("HOLDFAST_ENDPOINTS".into(), "x".into()),
        ];
        let settings = Settings::load(&overrides.set("lease.term", "12s")).unwrap();
        assert_eq!(settings.node, 7);
        assert_eq!(settings.disk.soft_percent, 20);
        assert_eq!(settings.lease.beat, Duration::from_secs(3));
        assert_eq!(settings.lease.term, Duration::from_secs(12));
        let dump = settings.dump();
        assert!(
            dump.contains("beat = \"3s\"  # environment HOLDFAST_LEASE__BEAT"),
            "{dump}"
        );
        dump.parse::<toml::Table>().unwrap();
    }

    #[test]
    fn all_faults_are_told_together_and_an_unknown_key_with_the_nearest_name() {
        let overrides = flags()
            .set("listen.app", "127.0.0.1:1")
            .set("lease.beat", "fast")
            .set("disk.hard", "50")
            .set("raft.profile", "moon");
        let faults = faults(&overrides);
        assert_eq!(faults.len(), 4, "{faults:?}");
        assert!(
            faults
                .iter()
                .any(|fault| fault.contains("did you mean listen.api?")),
            "{faults:?}"
        );
    }

    #[test]
    fn only_loopback_unless_insecure_and_then_with_an_address_to_call() {
        let open = flags().set("listen.api", "0.0.0.0:7100");
        assert!(
            faults(&open)
                .iter()
                .any(|fault| fault.contains("--insecure"))
        );
        let insecure = open.set("insecure", true);
        assert!(faults(&insecure)[0].contains("advertise.api"));
        let told = insecure.set("advertise.api", "n1:7100");
        assert_eq!(
            Settings::load(&told).unwrap().advertise.api.as_deref(),
            Some("n1:7100")
        );
    }

    #[test]
    fn a_term_too_short_for_its_beats_is_refused() {
        assert!(faults(&flags().set("lease.term", "2s"))[0].contains("too short"));
        assert!(faults(&flags().set("retention.ids", "29d"))[0].contains("not less"));
        assert!(
            Settings::load(&flags().set("lease.term", "2s").set("lease.beat", "300ms")).is_ok()
        );
    }

    /// splitmix64.
    fn roll(state: &mut u64) -> usize {
        *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut it = *state;
        it = (it ^ (it >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        it = (it ^ (it >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((it ^ (it >> 31)) >> 1).unwrap_or_default()
    }

    #[test]
    fn a_damaged_file_is_settings_or_faults_and_settings_are_written_as_they_are_read() {
        let good = "insecure = true\n[node]\nid = 7\ndata = \"/data\"\n[cluster]\nseeds = [\"a:1\"]\n[lease]\nterm = \"9s\"\n";
        let (mut state, mut read) = (1, 0);
        for _ in 0..2_000 {
            let mut bytes = good.as_bytes().to_vec();
            for _ in 0..=roll(&mut state) % 3 {
                let (at, byte) = (roll(&mut state) % bytes.len(), roll(&mut state));
                match byte % 3 {
                    0 => bytes[at] = byte.to_le_bytes()[1] % 128,
                    1 => bytes.insert(at, byte.to_le_bytes()[1] % 128),
                    _ => {
                        bytes.remove(at);
                    }
                }
            }
            let text = String::from_utf8(bytes).unwrap();
            match Settings::parse(&text) {
                Ok(settings) => {
                    let again = Settings::parse(&settings.dump()).unwrap();
                    assert!(settings.means(&again), "{}", settings.dump());
                    read += 1;
                }
                Err(faults) => assert!(!faults.0.is_empty()),
            }
        }
        assert!(read > 100, "{read} were settings");
    }

    #[test]
    fn a_path_of_any_letters_is_written_as_toml() {
        let text = "node.id = 1\nnode.data = \"/a\\u0001 \\\"b\\\" \\n\"\n";
        let settings = Settings::parse(text).unwrap();
        let again = Settings::parse(&settings.dump()).unwrap();
        assert_eq!(again.data, Path::new("/a\u{1} \"b\" \n"));
    }
}

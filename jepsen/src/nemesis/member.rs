//! Faults that change who is a member: added, removed, replaced; leadership moved; data lost or damaged.
//!
//! Invariant: a node that lost or damaged its data never serves again: it is replaced under a fresh id. Not here: consensus on it.

use std::fs;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use holdfast::wire as v1;

use super::aim::{find_leader, some_follower, take_follower};
use super::process::MayEnd;
use crate::dice::Dice;
use crate::load::timed;
use crate::records::FaultStatus::{Healed, Indeterminate, Installed, Skipped};
use crate::run::{Field, Member};

/// Membership copies data and waits for a majority.
const CHANGES_WITHIN: Duration = Duration::from_secs(60);
const TRANSFERS_WITHIN: Duration = Duration::from_secs(5);
/// A node that should refuse has so long to do what it must not.
const WATCHED_FOR: Duration = Duration::from_secs(4);
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Waits until a group is led by another node than this.
async fn led_by_another(field: &Arc<Field>, group: u32, than: u16) -> Option<u16> {
    let until = Instant::now() + TRANSFERS_WITHIN;
    while Instant::now() < until {
        if let Some(leader) = field.leader(group).await
            && leader.member.id != than
        {
            return Some(leader.member.id);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    None
}

pub(super) async fn transfer(field: &Arc<Field>, dice: &mut Dice) {
    const FAULT: &str = "transfer";
    let Some(leader) = find_leader(field, dice, FAULT).await else {
        return;
    };
    let from = &leader.member;
    let others: Vec<_> = field
        .members()
        .into_iter()
        .filter(|it| it.id != from.id && it.process.is_running())
        .collect();
    if others.is_empty() {
        field.record(FAULT, &[&from.name], Skipped, "nobody to hand over to");
        return;
    }
    let to = Arc::clone(dice.pick(&others));
    let request = v1::TransferLeaderRequest {
        partition: leader.group,
        to: u64::from(to.id),
    };
    let targets = [from.name.as_str(), to.name.as_str()];
    let asked = async {
        let mut cluster = field.asker.cluster(&from.direct())?;
        timed(TRANSFERS_WITHIN, cluster.transfer_leader(request)).await
    };
    if let Err(status) = asked.await {
        field.record(FAULT, &targets, Indeterminate, status.message());
        return;
    }
    match led_by_another(field, leader.group, from.id).await {
        Some(id) => {
            let note = format!("group {} is led by n{id}", leader.group);
            field.record(FAULT, &targets, Installed, &note);
            field.record(FAULT, &targets, Healed, "")
        }
        None => field.record(FAULT, &targets, Indeterminate, "it leads on"),
    };
}

pub(super) async fn change(field: &Arc<Field>, dice: &mut Dice) {
    const FAULT: &str = "membership";
    let Some(leader) = find_leader(field, dice, FAULT).await else {
        return;
    };
    let fresh = match start_fresh(field).await {
        Ok(fresh) => fresh,
        Err(why) => {
            field.record(FAULT, &[], Skipped, &why);
            return;
        }
    };
    let request = v1::AddNodeRequest {
        peer: fresh.peer(),
        api: String::new(),
    };
    let asked = async {
        let mut cluster = field.asker.cluster(&leader.member.direct())?;
        timed(CHANGES_WITHIN, cluster.add(request)).await
    };
    if let Err(status) = asked.await {
        // Whether it was added is open: it stays, and the next look at the cluster tells.
        field.record(FAULT, &[&fresh.name], Indeterminate, status.message());
        settle(field, &fresh).await;
        return;
    }
    field.enlist(Arc::clone(&fresh));
    field.record(FAULT, &[&fresh.name], Installed, "added");
    let Some(old) = some_follower(field, dice).await else {
        field.record(FAULT, &[&fresh.name], Indeterminate, "nobody leads");
        return;
    };
    // The one that was just added stays.
    let old = if old.id == fresh.id {
        let all = field.members();
        let leads = field.leader(1).await.map(|it| it.member.id);
        let found = all
            .into_iter()
            .find(|it| it.id != fresh.id && Some(it.id) != leads);
        found.unwrap_or(old)
    } else {
        old
    };
    let removed = remove(field, &old).await;
    match removed {
        Ok(()) => field.record(
            FAULT,
            &[&fresh.name, &old.name],
            Healed,
            "the old one removed",
        ),
        Err(why) => field.record(FAULT, &[&fresh.name, &old.name], Indeterminate, &why),
    };
}

/// A member that is to go: its process is ended once the cluster has let it go.
async fn remove(field: &Arc<Field>, old: &Arc<Member>) -> Result<(), String> {
    let until = Instant::now() + CHANGES_WITHIN;
    loop {
        let leader = field.leader(1).await.ok_or("nobody leads")?;
        let asked = async {
            let mut cluster = field.asker.cluster(&leader.member.direct())?;
            let node = u64::from(old.id);
            timed(
                CHANGES_WITHIN,
                cluster.remove(v1::RemoveNodeRequest { node }),
            )
            .await
        };
        match asked.await {
            Ok(_) => break,
            Err(status) if Instant::now() > until => return Err(status.message().to_string()),
            Err(_) if !is_member(field, old.id).await => break,
            Err(_) => tokio::time::sleep(LOOK_EVERY * 10).await,
        }
    }
    retire(field, old, None).await;
    Ok(())
}

async fn is_member(field: &Arc<Field>, id: u16) -> bool {
    let Some(leader) = field.leader(1).await else {
        return true; // nobody says otherwise
    };
    let to = leader.member.direct();
    let asked = field.asker.status(&to, TRANSFERS_WITHIN).await;
    let known = asked.map(|it| it.nodes).unwrap_or_default();
    known.is_empty() || known.iter().any(|it| it.node == u64::from(id))
}

async fn retire(field: &Arc<Field>, old: &Arc<Member>, instead: Option<Arc<Member>>) {
    let _may_end = MayEnd::of(old);
    // It is let go whether it ends gracefully or has to be killed.
    let _ = old.process.stop(Duration::from_secs(10)).await;
    field.retire(old.id, instead);
}

/// After an addition of which nobody knows whether it happened.
async fn settle(field: &Arc<Field>, fresh: &Arc<Member>) {
    tokio::time::sleep(TRANSFERS_WITHIN).await;
    if is_member(field, fresh.id).await {
        field.enlist(Arc::clone(fresh));
    } else {
        let _ = fresh.process.kill9();
    }
}

async fn start_fresh(field: &Arc<Field>) -> Result<Arc<Member>, String> {
    let fresh = field.start_member().map_err(|cause| cause.to_string())?;
    field
        .wait_for(&fresh, "/livez", CHANGES_WITHIN)
        .await
        .map_err(|cause| cause.to_string())?;
    Ok(fresh)
}

/// A fresh node in the place of one that is not to serve again.
async fn replace(field: &Arc<Field>, fault: &str, old: &Arc<Member>) {
    let done = async {
        let fresh = start_fresh(field).await?;
        let request = v1::ReplaceNodeRequest {
            old: u64::from(old.id),
            peer: fresh.peer(),
            api: String::new(),
        };
        let until = Instant::now() + CHANGES_WITHIN;
        loop {
            let leader = field.leader(1).await.ok_or("nobody leads".to_string());
            let asked = async {
                let mut cluster = field
                    .asker
                    .cluster(&leader?.member.direct())
                    .map_err(text)?;
                timed(CHANGES_WITHIN, cluster.replace(request.clone()))
                    .await
                    .map_err(text)
            };
            match asked.await {
                Ok(_) => break,
                Err(why) if Instant::now() > until => return Err(why),
                // The first may have done it though its answer was lost.
                Err(_) if !is_member(field, old.id).await => break,
                Err(_) => tokio::time::sleep(LOOK_EVERY * 10).await,
            }
        }
        retire(field, old, Some(Arc::clone(&fresh))).await;
        Ok(fresh.name.clone())
    };
    match done.await {
        Ok(name) => field.record(
            fault,
            &[&old.name, &name],
            Healed,
            "replaced under a fresh id",
        ),
        Err(why) => field.record(fault, &[&old.name], Indeterminate, &why),
    };
}

fn text(status: tonic::Status) -> String {
    status.message().to_string()
}

pub(super) async fn wipe(field: &Arc<Field>, dice: &mut Dice) {
    const FAULT: &str = "wipe";
    let Some((member, _taken)) = take_follower(field, dice, FAULT).await else {
        return;
    };
    let _may_end = MayEnd::of(&member);
    if member.process.kill9().is_err() {
        field.record(FAULT, &[&member.name], Skipped, "it had ended");
        return;
    }
    if let Err(cause) = empty(&member.data) {
        field.record(FAULT, &[&member.name], Indeterminate, &cause.to_string());
        super::process::start_again(field, FAULT, &member).await;
        return;
    }
    if let Err(cause) = member.restart() {
        field.record(FAULT, &[&member.name], Indeterminate, &cause.to_string());
        return;
    }
    field.record(
        FAULT,
        &[&member.name],
        Installed,
        "started under its old id without data",
    );
    if serves_within(&member, WATCHED_FOR).await {
        let what = format!(
            "{} was let in without its data under its old id",
            member.name
        );
        field.saw(&what);
    }
    let _ = member.process.kill9();
    replace(field, FAULT, &member).await;
}

/// Whether it becomes ready though it must not.
async fn serves_within(member: &Member, within: Duration) -> bool {
    let until = Instant::now() + within;
    while Instant::now() < until && member.process.is_running() {
        if member.says_yes("/readyz").await {
            return true;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    false
}

/// Empties a folder that may be a mount.
fn empty(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            fs::remove_dir_all(path)?;
        } else {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

pub(super) async fn bitrot(field: &Arc<Field>, dice: &mut Dice) {
    const FAULT: &str = "bitrot";
    let Some((member, _taken)) = take_follower(field, dice, FAULT).await else {
        return;
    };
    let _may_end = MayEnd::of(&member);
    if member.process.kill9().is_err() {
        field.record(FAULT, &[&member.name], Skipped, "it had ended");
        return;
    }
    match damage(&member.data, dice) {
        Ok(Some(what)) => field.record(FAULT, &[&member.name], Installed, &what),
        Ok(None) => field.record(FAULT, &[&member.name], Skipped, "it has no file to damage"),
        Err(cause) => field.record(FAULT, &[&member.name], Indeterminate, &cause.to_string()),
    };
    // A node that refuses ends; one that starts has not met the damage yet, and is watched by the checkers of what it answers.
    let _ = member.restart();
    let serves = serves_within(&member, WATCHED_FOR).await;
    let ended = !member.process.is_running();
    let how = match (ended, serves) {
        (true, _) => format!("it refused: {}", member.process.log_tail(2)),
        (false, true) => "it serves, and has not met the damage".to_string(),
        (false, false) => "it runs and is not ready".to_string(),
    };
    field.say(&format!("bitrot {}: {how}", member.name));
    let _ = member.process.kill9();
    replace(field, FAULT, &member).await;
}

/// Changes one byte of one file, or cuts its end off; says where. Text logs of the store are no data.
fn damage(data: &Path, dice: &mut Dice) -> io::Result<Option<String>> {
    let mut files = Vec::new();
    collect(data, &mut files)?;
    files.sort();
    if files.is_empty() {
        return Ok(None);
    }
    let path = dice.pick(&files).clone();
    let length = fs::metadata(&path)?.len();
    let at = dice.below(length);
    let mut file = fs::File::options().read(true).write(true).open(&path)?;
    let name = path
        .strip_prefix(data)
        .unwrap_or(&path)
        .display()
        .to_string();
    if dice.chance(25) {
        file.set_len(at)?;
        return Ok(Some(format!("{name} cut from {length} to {at} bytes")));
    }
    let mut byte = [0];
    file.seek(SeekFrom::Start(at))?;
    file.read_exact(&mut byte)?;
    file.seek(SeekFrom::Start(at))?;
    file.write_all(&[byte[0] ^ (1 << dice.below(8))])?;
    file.sync_all()?;
    Ok(Some(format!(
        "{name}: one bit of byte {at} of {length} flipped"
    )))
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let (path, kind) = (entry.path(), entry.file_type()?);
        let name = entry.file_name().to_string_lossy().into_owned();
        if kind.is_dir() {
            collect(&path, files)?;
        } else if !name.starts_with("LOG") && name != "LOCK" && entry.metadata()?.len() > 0 {
            files.push(path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damage_changes_one_bit_or_the_end_of_one_file_and_says_which() {
        for seed in 0..50 {
            let folder = tempfile::tempdir().unwrap();
            fs::create_dir(folder.path().join("log")).unwrap();
            let path = folder.path().join("log/000012.log");
            fs::write(&path, [7; 100]).unwrap();
            fs::write(folder.path().join("log/LOG"), "text").unwrap();
            let said = damage(folder.path(), &mut Dice::new(seed))
                .unwrap()
                .unwrap();
            assert!(said.contains("000012.log"), "{said}");
            let after = fs::read(&path).unwrap();
            let changed = after.iter().filter(|it| **it != 7).count();
            assert!((after.len() == 100 && changed == 1) || (after.len() < 100 && changed == 0));
            assert_eq!(fs::read(folder.path().join("log/LOG")).unwrap(), b"text");
        }
        let empty = tempfile::tempdir().unwrap();
        assert_eq!(damage(empty.path(), &mut Dice::new(1)).unwrap(), None);
    }
}

//! A receiver on which two attempts of one step have one effect: it refuses older fences and deduplicates by key.
//!
//! A fence alone is not enough: attempt 1 may act and die before its result is recorded, and attempt 2 acts again, under a
//! valid fence each time. A key alone is not enough where a worker that was frozen may wake up and write after its
//! successor. The table here is in memory; beside each operation stand the statements for Postgres and SQLite, alike in
//! both, each to be run in one transaction with the effect.
//!
//! ```sql
//! CREATE TABLE step_fence (run text, step text, fence bigint NOT NULL, PRIMARY KEY (run, step));
//! CREATE TABLE effect (key text PRIMARY KEY, answer text NOT NULL);
//! ```
//!
//! The fence sits in a row keyed by run and step: fences of different steps must not be compared. Bit 63 of a fence is
//! never set, so that it fits a signed column.

use std::{
    collections::{BTreeMap, HashMap},
    error::Error,
    sync::Mutex,
};

use holdfast::{Client, Cx, Fail, ResultExt, Step, StepCx, StepResult, Worker, Workflow};

const PAYOUT: Workflow<u64, u64> = Workflow::new("payout");
const CREDIT: Step<u64, u64> = Step::new("credit");
const CREDIT_EACH: Step<Vec<u64>, u64> = Step::new("credit-each");

async fn payout(cx: Cx, cents: u64) -> Result<u64, Fail> {
    cx.step(CREDIT, cents).await?;
    Ok(cx.step(CREDIT_EACH, vec![cents, cents]).await?)
}

/// Writes once an attempt.
async fn credit(cx: StepCx, cents: u64) -> StepResult<u64> {
    let write = Write {
        run: cx.run_id(),
        step: CREDIT.name(),
        fence: cx.fence(),
        key: cx.idempotency_key(),
    };
    // An attempt that is refused has been replaced: what it says is not heard any more.
    cx.app::<Account>()
        .credit_once(&write, cents)
        .terminal("REPLACED")
}

/// Writes several times an attempt: a key for each write, and the same fence.
async fn credit_each(cx: StepCx, amounts: Vec<u64>) -> StepResult<u64> {
    let mut balance = 0;
    for (nth, cents) in amounts.into_iter().enumerate() {
        let write = Write {
            run: cx.run_id(),
            step: CREDIT_EACH.name(),
            fence: cx.fence(),
            key: &format!("{}/{nth}", cx.idempotency_key()),
        };
        balance = cx
            .app::<Account>()
            .credit_several(&write, cents)
            .terminal("REPLACED")?;
    }
    Ok(balance)
}

/// Who writes, and what about.
struct Write<'a> {
    run: &'a str,
    step: &'a str,
    fence: u64,
    key: &'a str,
}

/// A newer attempt of the same step has written already.
#[derive(Debug, PartialEq, Eq)]
struct Replaced {
    by: u64,
}

impl std::fmt::Display for Replaced {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "an attempt under fence {} has written already", self.by)
    }
}

/// An account in somebody's database.
#[derive(Default)]
struct Account(Mutex<Tables>);

#[derive(Default)]
struct Tables {
    fences: BTreeMap<(String, String), u64>,
    answers: HashMap<String, u64>,
    balance: u64,
}

impl Account {
    /// For a step that writes once an attempt.
    ///
    /// ```sql
    /// SELECT answer FROM effect WHERE key = $key;                       -- found: answer that, do nothing
    /// INSERT INTO step_fence VALUES ($run, $step, $fence)
    ///   ON CONFLICT (run, step) DO UPDATE SET fence = excluded.fence
    ///   WHERE step_fence.fence < excluded.fence;                        -- no row changed: replaced, roll back
    /// UPDATE account SET balance = balance + $cents;
    /// INSERT INTO effect VALUES ($key, $answer);
    /// ```
    fn credit_once(&self, write: &Write<'_>, cents: u64) -> Result<u64, Replaced> {
        self.credit(write, cents, |seen| seen < write.fence)
    }

    /// For a step that writes several times an attempt: as above, with `<=` in place of `<`, and a key for each write.
    fn credit_several(&self, write: &Write<'_>, cents: u64) -> Result<u64, Replaced> {
        self.credit(write, cents, |seen| seen <= write.fence)
    }

    fn credit(
        &self,
        write: &Write<'_>,
        cents: u64,
        may: impl Fn(u64) -> bool,
    ) -> Result<u64, Replaced> {
        let mut tables = self.0.lock().expect("no one panics while holding it");
        if let Some(answer) = tables.answers.get(write.key) {
            return Ok(*answer);
        }
        let row = (write.run.to_owned(), write.step.to_owned());
        if let Some(by) = tables.fences.get(&row).copied().filter(|seen| !may(*seen)) {
            return Err(Replaced { by });
        }
        tables.fences.insert(row, write.fence);
        tables.balance += cents;
        let answer = tables.balance;
        tables.answers.insert(write.key.to_owned(), answer);
        Ok(answer)
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let client = Client::from_env().await?;
    Worker::new(&client, "payouts")
        .app(Account::default())
        .workflow(PAYOUT, payout)
        .step(CREDIT, credit)
        .step(CREDIT_EACH, credit_each)
        .run()
        .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write<'a>(step: &'a str, fence: u64, key: &'a str) -> Write<'a> {
        let run = "payout-7";
        Write {
            run,
            step,
            fence,
            key,
        }
    }

    fn balance(account: &Account) -> u64 {
        account.0.lock().unwrap().balance
    }

    #[test]
    fn two_attempts_of_one_step_have_one_effect_and_one_answer() {
        let account = Account::default();
        let first = account.credit_once(&write("credit", 5, "k-1"), 100);
        let again = account.credit_once(&write("credit", 9, "k-1"), 100); // the first one's result was lost
        assert_eq!((first, again), (Ok(100), Ok(100)));
        assert_eq!(balance(&account), 100);
    }

    #[test]
    fn an_attempt_that_wakes_up_after_its_successor_is_refused() {
        let account = Account::default();
        account
            .credit_several(&write("credit-each", 9, "k-1/0"), 100)
            .unwrap();
        let late = account.credit_several(&write("credit-each", 5, "k-1/1"), 100);
        assert_eq!(late, Err(Replaced { by: 9 }));
        assert_eq!(balance(&account), 100);
    }

    #[test]
    fn several_writes_of_one_attempt_each_count_once() {
        let account = Account::default();
        for fence in [5, 9] {
            for key in ["k-1/0", "k-1/1"] {
                account
                    .credit_several(&write("credit-each", fence, key), 100)
                    .unwrap();
            }
        }
        assert_eq!(balance(&account), 200);
    }

    #[test]
    fn fences_of_different_steps_are_not_compared() {
        let account = Account::default();
        account
            .credit_once(&write("credit", 9, "k-1"), 100)
            .unwrap();
        account.credit_once(&write("bonus", 5, "k-2"), 100).unwrap();
        assert_eq!(balance(&account), 200);
    }

    #[test]
    fn one_write_an_attempt_needs_a_fence_that_is_really_larger() {
        let account = Account::default();
        account
            .credit_once(&write("credit", 5, "k-1"), 100)
            .unwrap();
        let same = account.credit_once(&write("credit", 5, "k-2"), 100);
        assert_eq!(same, Err(Replaced { by: 5 }));
    }
}

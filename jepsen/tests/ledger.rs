//! The shop over real HTTP and a real file.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails here")]

use std::path::PathBuf;
use std::time::{Duration, Instant};

use holdfast_jepsen::ledger::{
    Audit, Behaviour, Caller, Line, Shop, ShopClient, ShopError, ShopOptions, Throttle, Verdict,
    read_ledger,
};

struct Town {
    folder: tempfile::TempDir,
    shop: Shop,
    client: ShopClient,
}

impl Town {
    async fn new(behaviour: Behaviour) -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self::open(folder, behaviour).await
    }

    async fn open(folder: tempfile::TempDir, behaviour: Behaviour) -> Self {
        let options = ShopOptions::new(
            "127.0.0.1:0".parse().unwrap(),
            folder.path().join("ledger.jsonl"),
        )
        .stock("widget", 10)
        .behaviour(behaviour);
        let shop = Shop::open(options).await.unwrap();
        let client = ShopClient::new(shop.addr());
        Self {
            folder,
            shop,
            client,
        }
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("ledger.jsonl")
    }

    fn audit(&self) -> Audit {
        Audit::of(&read_ledger(self.file()).unwrap())
    }
}

fn who(order: &str, step: &str, fence: u64) -> Caller {
    Caller {
        order: order.to_string(),
        key: format!("{order}/{step}"),
        run: order.to_string(),
        step: step.to_string(),
        fence,
        attempt: 1,
        worker: "w1".to_string(),
    }
}

#[tokio::test]
async fn a_call_repeated_under_its_key_acts_once() {
    let town = Town::new(Behaviour::default()).await;
    let caller = who("order-1", "charge", 5);
    let first = town.client.charge(&caller, 700).await.unwrap();
    let second = town
        .client
        .charge(
            &Caller {
                fence: 9,
                attempt: 2,
                ..caller.clone()
            },
            700,
        )
        .await
        .unwrap();
    assert_eq!(
        (first.repeated, second.repeated, &first.id),
        (false, true, &second.id)
    );
    let conflict = town
        .client
        .charge(&Caller { fence: 9, ..caller }, 701)
        .await;
    assert_eq!(conflict, Err(ShopError::Refused("conflict".to_string())));
    let audit = town.audit();
    assert_eq!(
        (
            audit.charges,
            audit.charge_calls,
            audit.orders["order-1"].charged_cents
        ),
        (1, 3, 700)
    );
    assert_eq!(audit.keys["order-1/charge"].fences, [5, 9].into());
    assert_eq!(audit.faults(), Vec::<String>::new());
}

#[tokio::test]
async fn an_older_fence_of_the_same_step_is_refused_even_for_a_repeat() {
    let town = Town::new(Behaviour::default()).await;
    town.client
        .charge(&who("order-1", "charge", 9), 700)
        .await
        .unwrap();
    assert_eq!(
        town.client.charge(&who("order-1", "charge", 5), 700).await,
        Err(ShopError::StaleFence)
    );
    // Another step, and the same step of another run, have fences of their own.
    town.client
        .mail(&who("order-1", "notify", 2), "a@example.com", "shipped")
        .await
        .unwrap();
    town.client
        .charge(&who("order-2", "charge", 3), 700)
        .await
        .unwrap();
    let audit = town.audit();
    assert_eq!(
        (
            audit.stale_refused,
            audit.stale_accepted.len(),
            audit.charges
        ),
        (1, 0, 2)
    );
}

#[tokio::test]
async fn a_refund_gives_back_once_and_one_without_a_charge_closes_the_key() {
    let town = Town::new(Behaviour::default()).await;
    town.client
        .charge(&who("order-1", "charge", 1), 700)
        .await
        .unwrap();
    assert!(
        town.client
            .find_charge("order-1/charge")
            .await
            .unwrap()
            .is_some()
    );
    for fence in [2, 3] {
        town.client
            .refund(&who("order-1", "refund", fence), "order-1/charge")
            .await
            .unwrap();
    }
    assert_eq!(
        town.client.find_charge("order-1/charge").await.unwrap(),
        None
    );
    town.client
        .refund(&who("order-2", "refund", 4), "order-2/charge")
        .await
        .unwrap();
    let late = town.client.charge(&who("order-2", "charge", 3), 700).await;
    assert_eq!(late, Err(ShopError::Refused("closed".to_string())));
    let audit = town.audit();
    assert_eq!(
        (
            audit.charges,
            audit.refunds,
            audit.orders["order-1"].refunded_cents
        ),
        (1, 1, 700)
    );
    assert_eq!(audit.faults(), Vec::<String>::new());
}

#[tokio::test]
async fn goods_are_taken_and_put_back_and_never_below_nothing() {
    let town = Town::new(Behaviour::default()).await;
    town.client
        .reserve(&who("order-1", "reserve", 1), "widget", 4)
        .await
        .unwrap();
    let much = town
        .client
        .reserve(&who("order-2", "reserve", 1), "widget", 7)
        .await;
    assert_eq!(much, Err(ShopError::OutOfStock));
    town.client
        .release(&who("order-1", "release", 2), "order-1/reserve")
        .await
        .unwrap();
    assert_eq!(town.client.stock("widget").await.unwrap(), 10);
    assert!(town.client.stock("gadget").await.is_err());
    let audit = town.audit();
    assert_eq!(
        (audit.stock["widget"].start, audit.stock["widget"].left),
        (10, 10)
    );
    assert_eq!(
        (
            audit.orders["order-1"].reserved,
            audit.orders["order-1"].released
        ),
        (4, 4)
    );
}

#[tokio::test]
async fn one_order_is_told_to_come_back_later_until_the_time_is_over() {
    let throttle = vec![Throttle {
        order: "order-1".to_string(),
        lasts: Duration::from_millis(200),
    }];
    let decline = vec!["order-3".to_string()];
    let town = Town::new(Behaviour {
        throttle,
        decline,
        ..Behaviour::default()
    })
    .await;
    town.client
        .charge(&who("order-2", "charge", 1), 700)
        .await
        .unwrap();
    assert_eq!(
        town.client.charge(&who("order-3", "charge", 1), 700).await,
        Err(ShopError::Declined)
    );
    let busy = town.client.charge(&who("order-1", "charge", 1), 700).await;
    let Err(ShopError::Busy { retry_after }) = busy else {
        panic!("{busy:?}")
    };
    assert!(retry_after <= Duration::from_millis(200));
    tokio::time::sleep(retry_after + Duration::from_millis(5)).await;
    town.client
        .charge(&who("order-1", "charge", 1), 700)
        .await
        .unwrap();
    assert_eq!((town.audit().throttled, town.audit().charges), (1, 2));
}

#[tokio::test]
async fn a_shop_that_opens_again_remembers_keys_fences_and_stock() {
    let town = Town::new(Behaviour::default()).await;
    town.client
        .charge(&who("order-1", "charge", 9), 700)
        .await
        .unwrap();
    town.client
        .reserve(&who("order-1", "reserve", 9), "widget", 3)
        .await
        .unwrap();
    let Town { folder, shop, .. } = town;
    shop.stop().await;
    // A crash of the shop may leave half a line, whose caller was never answered.
    let file = folder.path().join("ledger.jsonl");
    let mut text = std::fs::read_to_string(&file).unwrap();
    text.push_str("{\"line\":\"call\",\"seq\":7");
    std::fs::write(&file, text).unwrap();

    let town = Town::open(folder, Behaviour::default()).await;
    assert!(
        town.client
            .charge(&who("order-1", "charge", 9), 700)
            .await
            .unwrap()
            .repeated
    );
    assert_eq!(
        town.client.charge(&who("order-1", "charge", 8), 700).await,
        Err(ShopError::StaleFence)
    );
    assert_eq!(town.client.stock("widget").await.unwrap(), 7);
    let lines = read_ledger(town.file()).unwrap();
    let seqs: Vec<u64> = lines
        .iter()
        .filter_map(|line| match line {
            Line::Call(call) => Some(call.seq),
            Line::Opened { .. } => None,
        })
        .collect();
    assert_eq!(seqs, [0, 1, 2, 3]);
    assert_eq!(town.shop.calls(), 4);
}

#[tokio::test]
async fn latency_keeps_calls_in_flight_after_they_are_recorded() {
    let town = Town::new(Behaviour {
        latency: Duration::from_millis(400),
        ..Behaviour::default()
    })
    .await;
    let began = Instant::now();
    let caller = who("order-1", "charge", 1);
    let call = town.client.charge(&caller, 700);
    // The caller gives up in the second half: the charge stands all the same.
    assert!(
        tokio::time::timeout(Duration::from_millis(300), call)
            .await
            .is_err()
    );
    assert!(began.elapsed() < Duration::from_millis(400));
    assert_eq!(town.audit().charges, 1);
}

#[tokio::test]
async fn many_calls_at_once_share_syncs_and_all_stand_in_the_file() {
    let town = Town::new(Behaviour::default()).await;
    let calls: Vec<_> = (0..200)
        .map(|n| {
            let client = town.client.clone();
            tokio::spawn(async move {
                client
                    .charge(&who(&format!("order-{n}"), "charge", 1), 5)
                    .await
            })
        })
        .collect();
    for call in calls {
        assert!(!call.await.unwrap().unwrap().repeated);
    }
    assert_eq!(town.audit().charges, 200);
}

#[tokio::test]
async fn a_request_that_makes_no_sense_is_refused_and_not_recorded() {
    let town = Town::new(Behaviour::default()).await;
    let nameless = Caller {
        key: String::new(),
        ..who("order-1", "charge", 1)
    };
    assert!(
        matches!(town.client.charge(&nameless, 5).await, Err(ShopError::Refused(why)) if why.contains("key"))
    );
    assert_eq!(town.shop.calls(), 0);
}

#[test]
fn the_audit_finds_double_charges_and_stale_fences_in_a_ledger_that_claims_to_be_fine() {
    let line = |seq, key: &str, fence, verdict| {
        let json = format!(
            r#"{{"line":"call","seq":{seq},"t_us":1,"order":"o","key":"{key}","run":"o","step":"charge","fence":{fence},"attempt":1,"worker":"","deed":{{"do":"charge","cents":5}},"verdict":"{verdict}"}}"#
        );
        serde_json::from_str::<Line>(&json).unwrap()
    };
    let audit = Audit::of(&[
        line(0, "a", 9, "acted"),
        line(1, "b", 5, "acted"),
        line(2, "a", 9, "acted"),
    ]);
    assert_eq!(
        (
            audit.duplicates.len(),
            audit.stale_accepted.len(),
            audit.acted_twice.len()
        ),
        (1, 1, 1)
    );
    assert_eq!(audit.faults().len(), 3);
    assert_eq!(
        serde_json::to_string(&Verdict::StaleFence).unwrap(),
        "\"stale-fence\""
    );
}

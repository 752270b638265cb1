//! The store in front of an issuer that fails when told to. Both clocks are the test's: tokio's is paused, and the wall clock
//! follows it.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, SystemTime},
};

use super::CertificateStore;
use crate::{
    mesh::SpiffeId,
    tls::{
        certificate::WorkloadCertificate,
        issuer::{Error, Issuer},
        testing::{TestAuthority, with_uris},
    },
};

const HOUR: Duration = Duration::from_hours(1);

/// Starts at a full second, which is all a certificate can tell.
#[derive(Clone, Copy)]
struct TestClock {
    start: SystemTime,
    started: tokio::time::Instant,
}

impl TestClock {
    fn new() -> Self {
        let start = SystemTime::UNIX_EPOCH + Duration::from_hours(500_000);
        Self { start, started: tokio::time::Instant::now() }
    }

    fn now(&self) -> SystemTime {
        self.start + self.started.elapsed()
    }
}

struct FakeIssuer {
    authority: TestAuthority,
    clock: TestClock,
    asked: AtomicUsize,
    down: AtomicBool,
    wrong: AtomicBool,
}

impl Issuer for FakeIssuer {
    fn issue<'a>(
        &'a self,
        identity: &'a SpiffeId,
    ) -> Pin<Box<dyn Future<Output = Result<WorkloadCertificate, Error>> + Send + 'a>> {
        Box::pin(async move {
            self.asked.fetch_add(1, SeqCst);
            tokio::time::sleep(Duration::from_millis(100)).await;
            if self.down.load(SeqCst) {
                return Err(Error("the issuer is down".to_owned()));
            }
            let name = if self.wrong.load(SeqCst) {
                "spiffe://cluster.local/ns/default/sa/other".to_owned()
            } else {
                identity.to_string()
            };
            let mut params = with_uris(&[&name]);
            params.not_before = self.clock.now().into();
            params.not_after = (self.clock.now() + HOUR).into();
            let issued = self.authority.issue(&params);
            WorkloadCertificate::new(
                vec![issued.certificate.clone()],
                issued.key_der(),
                &[self.authority.root()],
            )
            .map_err(|e| Error(e.to_string()))
        })
    }
}

fn start() -> (CertificateStore, Arc<FakeIssuer>) {
    let clock = TestClock::new();
    let issuer = Arc::new(FakeIssuer {
        authority: TestAuthority::new(),
        clock,
        asked: AtomicUsize::new(0),
        down: AtomicBool::new(false),
        wrong: AtomicBool::new(false),
    });
    let store =
        CertificateStore::with_clock(Arc::clone(&issuer) as Arc<dyn Issuer>, Arc::new(move || clock.now()));
    (store, issuer)
}

fn id() -> SpiffeId {
    "spiffe://cluster.local/ns/default/sa/sleep".parse().unwrap()
}

#[tokio::test(start_paused = true)]
async fn everyone_who_waits_shares_one_request() {
    let (store, issuer) = start();
    let tasks: Vec<_> = (0..100)
        .map(|_| {
            let store = store.clone();
            tokio::spawn(async move { store.fetch(&id()).await.unwrap().number() })
        })
        .collect();
    let mut numbers = Vec::new();
    for task in tasks {
        numbers.push(task.await.unwrap());
    }
    numbers.dedup();
    assert_eq!((numbers.len(), issuer.asked.load(SeqCst)), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_certificate_is_renewed_before_it_expires_and_served_meanwhile() {
    let (store, issuer) = start();
    let first = store.fetch(&id()).await.unwrap();
    tokio::time::sleep(HOUR / 2).await;
    assert_eq!(store.fetch(&id()).await.unwrap().number(), first.number());
    assert_eq!(issuer.asked.load(SeqCst), 1);
    tokio::time::sleep(HOUR / 4).await;
    assert_eq!(issuer.asked.load(SeqCst), 2);
    assert_ne!(store.fetch(&id()).await.unwrap().number(), first.number());
}

#[tokio::test(start_paused = true)]
async fn an_issuer_that_is_down_is_asked_again_and_an_expired_certificate_is_not_served() {
    let (store, issuer) = start();
    let first = store.fetch(&id()).await.unwrap();
    issuer.down.store(true, SeqCst);
    tokio::time::sleep(HOUR * 9 / 10).await;
    assert_eq!(store.fetch(&id()).await.unwrap().number(), first.number());
    let tries = issuer.asked.load(SeqCst);
    assert!((8..40).contains(&tries), "{tries} tries in a quarter of an hour");
    tokio::time::sleep(HOUR / 5).await;
    assert_eq!(store.fetch(&id()).await.unwrap_err().to_string(), "the issuer is down");
    issuer.down.store(false, SeqCst);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(store.fetch(&id()).await.unwrap().not_after() > issuer.clock.now());
}

#[tokio::test(start_paused = true)]
async fn an_outage_shorter_than_the_rest_of_the_life_is_not_noticed() {
    let (store, issuer) = start();
    store.fetch(&id()).await.unwrap();
    issuer.down.store(true, SeqCst);
    tokio::time::sleep(HOUR * 8 / 10).await;
    issuer.down.store(false, SeqCst);
    tokio::time::sleep(HOUR / 10).await;
    let renewed = store.fetch(&id()).await.unwrap();
    assert!(renewed.not_after() > issuer.clock.now() + HOUR / 2);
}

#[tokio::test(start_paused = true)]
async fn a_failure_is_told_to_who_waits_and_tried_again_by_who_comes_later() {
    let (store, issuer) = start();
    issuer.down.store(true, SeqCst);
    store.fetch(&id()).await.unwrap_err();
    store.fetch(&id()).await.unwrap_err();
    assert_eq!(issuer.asked.load(SeqCst), 1);
    issuer.down.store(false, SeqCst);
    tokio::time::sleep(Duration::from_secs(1)).await;
    store.fetch(&id()).await.unwrap();
    assert_eq!(issuer.asked.load(SeqCst), 2);
}

#[tokio::test(start_paused = true)]
async fn the_certificate_of_somebody_else_is_refused() {
    let (store, issuer) = start();
    issuer.wrong.store(true, SeqCst);
    let error = store.fetch(&id()).await.unwrap_err().to_string();
    assert!(error.contains("sa/other"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_forgotten_identity_is_renewed_no_more() {
    let (store, issuer) = start();
    let first = store.fetch(&id()).await.unwrap();
    store.forget(&id());
    tokio::time::sleep(HOUR * 3).await;
    assert_eq!(issuer.asked.load(SeqCst), 1);
    assert_ne!(store.fetch(&id()).await.unwrap().number(), first.number());
}

#[tokio::test(start_paused = true)]
async fn who_gives_up_waiting_does_not_stop_the_request() {
    let (store, issuer) = start();
    let identity = id();
    tokio::time::timeout(Duration::from_millis(10), store.fetch(&identity)).await.unwrap_err();
    store.fetch(&identity).await.unwrap();
    assert_eq!(issuer.asked.load(SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn the_status_says_what_ends_first_what_is_overdue_and_what_has_failed() {
    let (store, issuer) = start();
    store.fetch(&id()).await.unwrap();
    let status = store.status();
    let (identity, end) = status.first_to_end.clone().unwrap();
    assert_eq!((status.valid, identity), (1, id()));
    let left = SystemTime::from(end).duration_since(issuer.clock.now()).unwrap();
    assert!(left <= HOUR && left > HOUR / 2, "{left:?}");
    assert!(status.overdue.is_empty() && status.failed.is_empty());

    issuer.down.store(true, SeqCst);
    let other: SpiffeId = "spiffe://cluster.local/ns/default/sa/late".parse().unwrap();
    store.fetch(&other).await.unwrap_err();
    tokio::time::sleep(HOUR * 9 / 10).await;
    let status = store.status();
    assert_eq!((status.valid, status.overdue.as_slice()), (1, [id()].as_slice()));
    assert_eq!(status.failed[&other], "the issuer is down");
    tokio::time::sleep(HOUR / 5).await;
    let status = store.status();
    assert_eq!((status.valid, status.failed.len(), status.first_to_end), (0, 2, None));
}

//! The append stream of one group to one follower, seen from the leader: requests out, one reply to each, in order.
//!
//! Invariant: ends propagate. When the requests end, the sending half closes; when the replies are dropped, the requests
//! are dropped with them, at once, because openraft holds a lock inside a request stream that waits.
//! Not here: what a frame means (`adapter`), connections (`connections`).

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use futures::{Stream, StreamExt};
use parking_lot::Mutex;
use tokio::time::{Instant, Sleep};

use crate::seeded::{Bug, armed};

/// The far side takes 64; half of it keeps a slow disk there from becoming a queue here.
pub(crate) const OUTSTANDING_MAX: usize = 32;

/// How long one request may stay unanswered before the stream is given up.
pub(crate) const REPLY_WITHIN: Duration = Duration::from_secs(3);

/// How long a request that says little waits for company: the clock of the runtime knows no less than a millisecond.
const HELD_BACK: Duration = Duration::from_millis(2);

/// How often an unanswered request's age is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Why a stream of replies ended early.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Broken {
    /// The call itself failed.
    #[error(transparent)]
    Call(#[from] Box<tonic::Status>),
    /// The peer holds the connection but does not answer.
    #[error("no reply for {0:?} to a request that was sent")]
    Silent(Duration),
    /// A reply to nothing.
    #[error("a reply came that nobody asked for")]
    Unasked,
}

/// Requests of which those that `say_little` go out with the next one, or [`HELD_BACK`] later: that entries are committed is
/// no news to wake a follower for, which would take the time that the next commit needs.
pub(crate) struct HeldBack<S: Stream> {
    requests: S,
    says_little: fn(&S::Item) -> bool,
    held: Option<S::Item>,
    /// What came after it.
    behind: Option<S::Item>,
    ended: bool,
    waits: Pin<Box<Sleep>>,
}

impl<S: Stream> HeldBack<S> {
    /// Of `requests`; in a runtime.
    pub(crate) fn new(requests: S, says_little: fn(&S::Item) -> bool) -> Self {
        Self {
            requests,
            says_little,
            held: None,
            behind: None,
            ended: false,
            waits: Box::pin(tokio::time::sleep(HELD_BACK)),
        }
    }
}

impl<S: Stream + Unpin> Stream for HeldBack<S>
where
    S::Item: Unpin,
{
    type Item = S::Item;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        if this.ended || this.behind.is_some() {
            return Poll::Ready(this.behind.take());
        }
        if this.held.is_none() {
            match ready!(this.requests.poll_next_unpin(cx)) {
                Some(request) if (this.says_little)(&request) => {
                    this.held = Some(request);
                    this.waits.as_mut().reset(Instant::now() + HELD_BACK);
                }
                next => return Poll::Ready(next),
            }
        }
        match this.requests.poll_next_unpin(cx) {
            Poll::Ready(next) => {
                this.ended = next.is_none();
                this.behind = next;
            }
            Poll::Pending => ready!(this.waits.as_mut().poll(cx)),
        }
        Poll::Ready(this.held.take())
    }
}

/// What both directions share.
struct Shared<S> {
    requests: Option<S>,
    sent: VecDeque<Instant>,
    waker: Option<Waker>,
}

/// The outgoing half: a request goes out while fewer than the maximum wait for their reply.
pub(crate) struct Requests<S> {
    shared: Arc<Mutex<Shared<S>>>,
}

/// The mark on the other half; dropping it ends and drops the requests.
pub(crate) struct Outstanding<S> {
    shared: Arc<Mutex<Shared<S>>>,
}

/// Splits a request stream into what goes out and the account of what is outstanding.
pub(crate) fn outstanding<S>(requests: S) -> (Requests<S>, Outstanding<S>) {
    let shared = Shared {
        requests: Some(requests),
        sent: VecDeque::new(),
        waker: None,
    };
    let shared = Arc::new(Mutex::new(shared));
    (
        Requests {
            shared: Arc::clone(&shared),
        },
        Outstanding { shared },
    )
}

impl<S: Stream + Unpin> Stream for Requests<S> {
    type Item = S::Item;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut shared = self.shared.lock();
        shared.waker = Some(cx.waker().clone());
        if shared.sent.len() >= OUTSTANDING_MAX {
            return Poll::Pending;
        }
        let Some(requests) = shared.requests.as_mut() else {
            return Poll::Ready(None);
        };
        match requests.poll_next_unpin(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(None) if armed(Bug::AppendStreamLeftOpen) => Poll::Pending,
            Poll::Ready(None) => {
                shared.requests = None;
                Poll::Ready(None)
            }
            Poll::Ready(Some(request)) => {
                shared.sent.push_back(Instant::now());
                Poll::Ready(Some(request))
            }
        }
    }
}

impl<S> Outstanding<S> {
    fn answered(&self) -> Result<(), Broken> {
        let mut shared = self.shared.lock();
        let was_full = shared.sent.len() >= OUTSTANDING_MAX;
        shared.sent.pop_front().ok_or(Broken::Unasked)?;
        let waker = if was_full { shared.waker.take() } else { None };
        drop(shared);
        if let Some(waker) = waker {
            waker.wake();
        }
        Ok(())
    }

    fn oldest_age(&self) -> Option<Duration> {
        self.shared.lock().sent.front().map(Instant::elapsed)
    }
}

impl<S> Drop for Outstanding<S> {
    fn drop(&mut self) {
        let (requests, waker) = {
            let mut shared = self.shared.lock();
            (shared.requests.take(), shared.waker.take())
        };
        drop(requests);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// Replies in the order of their requests; ends with the replies, or with the first error.
pub(crate) fn pair_in_order<S, R, T>(
    outstanding: Outstanding<S>,
    replies: R,
) -> impl Stream<Item = Result<T, Broken>> + Send
where
    S: Send + 'static,
    R: Stream<Item = Result<T, tonic::Status>> + Send + Unpin + 'static,
    T: Send + 'static,
{
    futures::stream::unfold(Some((outstanding, replies)), |both| async move {
        let (outstanding, mut replies) = both?;
        loop {
            match tokio::time::timeout(LOOK_EVERY, replies.next()).await {
                Ok(None) => return None,
                Ok(Some(Err(status))) => return Some((Err(Box::new(status).into()), None)),
                Ok(Some(Ok(reply))) => {
                    let item = outstanding.answered().map(|()| reply);
                    let rest = item.is_ok().then_some((outstanding, replies));
                    return Some((item, rest));
                }
                Err(_) => {
                    if let Some(age) = outstanding.oldest_age()
                        && age >= REPLY_WITHIN
                    {
                        return Some((Err(Broken::Silent(age)), None));
                    }
                }
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::{FutureExt as _, channel::mpsc};

    /// Tells when it is dropped.
    struct Told(Arc<Mutex<bool>>);
    impl Drop for Told {
        fn drop(&mut self) {
            *self.0.lock() = true;
        }
    }

    #[tokio::test]
    async fn dropping_the_replies_drops_the_requests_at_once() {
        let dropped = Arc::new(Mutex::new(false));
        let told = Told(Arc::clone(&dropped));
        let endless = Box::pin(futures::stream::pending::<u8>().map(move |it| {
            let _held = &told;
            it
        }));
        let (mut requests, outstanding) = outstanding(endless);
        let waiting = tokio::spawn(async move { requests.next().await });
        tokio::task::yield_now().await;
        let (_keep, replies) = mpsc::unbounded::<Result<u8, tonic::Status>>();
        let replies = pair_in_order(outstanding, replies);
        drop(replies);
        assert!(*dropped.lock(), "the requests are dropped with the replies");
        assert_eq!(waiting.await.unwrap(), None, "and the sending half closes");
    }

    #[tokio::test]
    async fn the_replies_end_when_the_far_side_ends() {
        let (requests, outstanding) = outstanding(futures::stream::iter([1_u8, 2]).boxed());
        assert_eq!(requests.collect::<Vec<_>>().await, vec![1, 2]);
        let replies = futures::stream::iter([Ok::<_, tonic::Status>(10_u8), Ok(20)]);
        let got: Vec<_> = pair_in_order(outstanding, replies).collect().await;
        assert_eq!(
            got.into_iter().map(Result::unwrap).collect::<Vec<_>>(),
            vec![10, 20]
        );
    }

    #[tokio::test]
    async fn an_error_is_the_last_item_and_no_reply_is_skipped() {
        let (requests, outstanding) = outstanding(futures::stream::iter([1_u8, 2, 3]).boxed());
        assert_eq!(requests.collect::<Vec<_>>().await.len(), 3);
        let broken = Err(tonic::Status::unavailable("reset"));
        let replies = futures::stream::iter([Ok(10_u8), broken, Ok(30)]);
        let got: Vec<_> = pair_in_order(outstanding, replies).collect().await;
        assert_eq!(got.len(), 2);
        assert!(got[0].is_ok() && got[1].is_err());
    }

    #[tokio::test]
    async fn at_most_the_maximum_is_outstanding() {
        let (mut requests, outstanding) = outstanding(futures::stream::iter(0_u8..200).boxed());
        for _ in 0..OUTSTANDING_MAX {
            requests.next().await.unwrap();
        }
        assert!(futures::poll!(requests.next()).is_pending());
        outstanding.answered().unwrap();
        assert!(futures::poll!(requests.next()).is_ready());
    }

    #[tokio::test]
    async fn silence_counts_only_while_a_request_is_out() {
        let (mut requests, outstanding) = outstanding(futures::stream::iter([1_u8]).boxed());
        let (_keep, replies) = mpsc::unbounded::<Result<u8, tonic::Status>>();
        let mut replies = Box::pin(pair_in_order(outstanding, replies));
        let idle = tokio::time::timeout(LOOK_EVERY * 3, replies.next()).await;
        assert!(idle.is_err(), "an idle stream is left alone");
        requests.next().await.unwrap();
        let shared = Arc::clone(&requests.shared);
        let long_ago = Instant::now()
            .checked_sub(REPLY_WITHIN)
            .expect("the machine is up longer");
        shared.lock().sent[0] = long_ago;
        assert!(matches!(replies.next().await, Some(Err(Broken::Silent(_)))));
    }

    #[tokio::test(start_paused = true)]
    async fn what_says_little_goes_out_with_the_next_request_or_a_little_later_and_nothing_is_lost()
    {
        let (asks, requests) = mpsc::unbounded();
        let mut held = HeldBack::new(requests, |it: &u8| *it == 0);
        asks.unbounded_send(1).unwrap();
        assert_eq!(held.next().now_or_never(), Some(Some(1)), "at once");
        asks.unbounded_send(0).unwrap();
        assert_eq!(held.next().now_or_never(), None, "it waits");
        asks.unbounded_send(2).unwrap();
        assert_eq!(held.next().now_or_never(), Some(Some(0)), "in order");
        assert_eq!(held.next().now_or_never(), Some(Some(2)));
        asks.unbounded_send(0).unwrap();
        let began = Instant::now();
        assert_eq!(held.next().await, Some(0), "nothing follows");
        assert!(began.elapsed() >= HELD_BACK, "{:?}", began.elapsed());
        asks.unbounded_send(0).unwrap();
        drop(asks);
        assert_eq!(held.next().now_or_never(), Some(Some(0)), "before the end");
        assert_eq!(held.next().now_or_never(), Some(None));
    }
}

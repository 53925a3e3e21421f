//! What connections want of the one thread that may trace, and what it gives them.
//!
//! A connection has at most one order: an image now, or one when a line is reached. Whoever traces
//! takes them all together, so that several people at one line cost the program one image.

use crate::milliseconds;
use crate::target::Image;
use godebug_api::Refusal;
use godebug_api::image::News;
use rustix::event::{EventfdFlags, eventfd};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// News that nobody has asked for are not kept without end.
const MOST_NEWS: usize = 1000;

/// What a connection wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Order {
    /// An image as soon as can be.
    Now,
    /// One when a thread reaches any of these addresses; with what a person calls each.
    At(BTreeMap<u64, String>),
}

/// What it gets.
#[derive(Clone)]
pub(crate) enum Taken {
    /// With the address that was reached.
    Image(Arc<Image>, Option<u64>),
    Refused(Refusal),
}

/// How a connection hears of it.
type Answer = Box<dyn FnOnce(Taken) + Send>;

struct Ordered {
    order: Order,
    answer: Answer,
}

#[derive(Default)]
struct State {
    orders: BTreeMap<u64, Ordered>,
    news: VecDeque<(u64, News)>,
    last_news: u64,
    last_connection: u64,
    /// Nothing is taken any more.
    is_over: bool,
}

/// Where both meet.
pub(crate) struct Desk {
    state: Mutex<State>,
    changed: Condvar,
    /// Readable when there is something new for the thread that traces.
    bell: OwnedFd,
}

/// What is to be done now.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Due {
    Nothing,
    Now,
    At(Vec<u64>),
}

impl Desk {
    pub(crate) fn new() -> std::io::Result<Self> {
        let bell = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?;
        Ok(Self { state: Mutex::default(), changed: Condvar::new(), bell })
    }

    pub(crate) fn bell(&self) -> &OwnedFd {
        &self.bell
    }

    fn ring(&self) {
        // Full only if nobody has listened to 2^64 rings.
        let _ = rustix::io::write(&self.bell, &1_u64.to_ne_bytes());
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing can panic while it is held.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A number for a new connection.
    pub(crate) fn number(&self) -> u64 {
        let mut state = self.state();
        state.last_connection += 1;
        state.last_connection
    }

    /// What this connection wants from now on, instead of whatever it wanted before.
    pub(crate) fn order(
        &self,
        connection: u64,
        order: Order,
        answer: impl FnOnce(Taken) + Send + 'static,
    ) {
        let mut state = self.state();
        if state.is_over {
            drop(state);
            return answer(Taken::Refused(over()));
        }
        state.orders.insert(connection, Ordered { order, answer: Box::new(answer) });
        drop(state);
        self.ring();
    }

    /// This connection wants nothing any more.
    pub(crate) fn withdraw(&self, connection: u64) {
        if self.state().orders.remove(&connection).is_some() {
            self.ring();
        }
    }

    pub(crate) fn due(&self) -> Due {
        let state = self.state();
        let mut addresses = BTreeSet::new();
        for ordered in state.orders.values() {
            match &ordered.order {
                Order::Now => return Due::Now,
                Order::At(places) => addresses.extend(places.keys().copied()),
            }
        }
        if addresses.is_empty() { Due::Nothing } else { Due::At(addresses.into_iter().collect()) }
    }

    /// What is waited for besides the line that has this address; `None` when that is all.
    pub(crate) fn others_than(&self, address: u64) -> Option<Vec<u64>> {
        let line = self.name_of(address)?;
        let state = self.state();
        let mut others = BTreeSet::new();
        for ordered in state.orders.values() {
            if let Order::At(places) = &ordered.order {
                let other = places.iter().filter(|(_, name)| **name != line);
                others.extend(other.map(|(address, _)| *address));
            }
        }
        (!others.is_empty()).then(|| others.into_iter().collect())
    }

    /// Gives an image to all who wanted one now, or at this address; the record has it, too.
    pub(crate) fn deliver(&self, image: Image, address: Option<u64>) {
        let place = address.and_then(|address| self.name_of(address)).unwrap_or_default();
        self.tell(News { pause_ms: milliseconds(image.pause), place });
        let image = Arc::new(image);
        self.answer(|order| wants(order, address), &Taken::Image(image, address));
    }

    fn name_of(&self, address: u64) -> Option<String> {
        self.state().orders.values().find_map(|ordered| match &ordered.order {
            Order::At(places) => places.get(&address).cloned(),
            Order::Now => None,
        })
    }

    /// The same when there is none.
    pub(crate) fn refuse(&self, due: &Due, refusal: &Refusal) {
        let of_this_kind = |order: &Order| match due {
            Due::Nothing => false,
            Due::Now => *order == Order::Now,
            Due::At(_) => *order != Order::Now,
        };
        self.answer(of_this_kind, &Taken::Refused(refusal.clone()));
    }

    /// Nobody gets anything any more.
    pub(crate) fn close(&self) {
        self.state().is_over = true;
        self.answer(|_| true, &Taken::Refused(over()));
        self.changed.notify_all();
    }

    fn answer(&self, is_meant: impl Fn(&Order) -> bool, taken: &Taken) {
        let mut state = self.state();
        let all = std::mem::take(&mut state.orders);
        let (meant, others): (BTreeMap<_, _>, BTreeMap<_, _>) =
            all.into_iter().partition(|(_, ordered)| is_meant(&ordered.order));
        state.orders = others;
        drop(state);
        for ordered in meant.into_values() {
            (ordered.answer)(taken.clone());
        }
    }

    /// Something that the record is to have.
    fn tell(&self, news: News) {
        let mut state = self.state();
        state.last_news += 1;
        let number = state.last_news;
        state.news.push_back((number, news));
        if state.news.len() > MOST_NEWS {
            state.news.pop_front();
        }
        self.changed.notify_all();
    }

    /// What has been told since, waited for until `by`; with the number to ask with next.
    pub(crate) fn news_since(&self, since: u64, by: Instant) -> (u64, Vec<News>) {
        let mut state = self.state();
        loop {
            let left = by.saturating_duration_since(Instant::now());
            if state.last_news > since || state.is_over || left == Duration::ZERO {
                let newer = state.news.iter().filter(|(number, _)| *number > since);
                return (state.last_news, newer.map(|(_, news)| news.clone()).collect());
            }
            let waited = self.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

fn wants(order: &Order, address: Option<u64>) -> bool {
    match (order, address) {
        // Whoever wants one now is served by any.
        (Order::Now, _) => true,
        (Order::At(places), Some(address)) => places.contains_key(&address),
        (Order::At(_), None) => false,
    }
}

fn over() -> Refusal {
    Refusal::new(godebug_api::Code::Ended, "no more images are taken: the session ends", "")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    fn told(desk: &Desk, connection: u64, order: Order) -> mpsc::Receiver<Taken> {
        let (send, receive) = mpsc::channel();
        desk.order(connection, order, move |taken| drop(send.send(taken)));
        receive
    }

    fn at(addresses: &[u64]) -> Order {
        Order::At(addresses.iter().map(|at| (*at, format!("main.go:{at}"))).collect())
    }

    fn image() -> Image {
        Image::for_tests()
    }

    #[test]
    fn one_image_serves_all_who_wait_for_it_and_nobody_else() {
        let desk = Desk::new().unwrap();
        let (first, second) = (told(&desk, 1, at(&[7])), told(&desk, 2, at(&[7, 9])));
        let third = told(&desk, 3, at(&[8]));
        assert_eq!(desk.due(), Due::At(vec![7, 8, 9]));
        desk.deliver(image(), Some(7));
        for served in [first, second] {
            assert!(matches!(served.try_recv(), Ok(Taken::Image(_, Some(7)))));
        }
        assert!(third.try_recv().is_err());
        assert_eq!(desk.due(), Due::At(vec![8]));
    }

    #[test]
    fn who_wants_one_now_comes_first_and_a_new_order_replaces_the_old() {
        let desk = Desk::new().unwrap();
        let waits = told(&desk, 1, at(&[7]));
        let now = told(&desk, 2, Order::Now);
        assert_eq!(desk.due(), Due::Now);
        desk.deliver(image(), None);
        assert!(matches!(now.try_recv(), Ok(Taken::Image(_, None))));
        assert!(waits.try_recv().is_err());
        let changed = told(&desk, 1, Order::Now);
        desk.refuse(&Due::Now, &over());
        assert!(matches!(changed.try_recv(), Ok(Taken::Refused(_))));
        assert_eq!(desk.due(), Due::Nothing);
    }

    #[test]
    fn a_line_that_was_reached_lets_others_go_first() {
        let desk = Desk::new().unwrap();
        let _waits = told(&desk, 1, at(&[4, 5]));
        assert_eq!(desk.others_than(4), Some(vec![5]));
        let _only = told(&desk, 1, at(&[4]));
        assert_eq!((desk.others_than(4), desk.others_than(9)), (None, None));
    }

    #[test]
    fn after_the_end_every_order_is_refused() {
        let desk = Desk::new().unwrap();
        let before = told(&desk, 1, Order::Now);
        desk.close();
        let after = told(&desk, 2, Order::Now);
        assert!(matches!(before.try_recv(), Ok(Taken::Refused(_))));
        assert!(matches!(after.try_recv(), Ok(Taken::Refused(_))));
    }

    #[test]
    fn news_are_told_once_to_each_who_asks_from_where_they_were() {
        let desk = Desk::new().unwrap();
        let news = News { pause_ms: 0.0, place: "main.go:4".to_owned() };
        let by = Instant::now();
        assert_eq!(desk.news_since(0, by), (0, Vec::new()));
        let _waits = told(&desk, 1, at(&[4]));
        desk.deliver(image(), Some(4));
        assert_eq!(desk.news_since(0, by), (1, vec![news]));
        assert_eq!(desk.news_since(1, by), (1, Vec::new()));
    }
}

//! One request at two endpoints: the first answer counts.
//!
//! Enters: a try that is slow to be answered, and a way to ask. Leaves: the try that was answered first. Never: a second endpoint beyond
//! the budget of retries, a third one, or an endpoint that seems fast because its slow answers are not waited for.

use std::future::{Future as _, pending, poll_fn};
use std::pin::pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::sleep;
use weft_engine::Outcome;

use super::call::{Call, Try};

/// Asks by `ask`, and after a while at a second endpoint too. `fault`: what an answer says against its endpoint; without one it
/// counts at once, with one only if the other has none better. `guard` can end the wait.
///
/// # Errors
/// What the guard said, and the first try.
pub async fn race<T, G>(
    call: &Call<'_>,
    first: Try,
    after: Duration,
    ask: impl AsyncFn(&mut Try) -> T,
    fault: impl Fn(&T) -> Option<Outcome>,
    guard: impl FnMut(&mut Context<'_>) -> Poll<G>,
) -> Result<(Try, T), (Try, G)> {
    let finish = |tried: Try, outcome| tried.finish(call.worker(), outcome);
    let rules = Rules {
        after,
        beside: || call.beside(),
        fault,
        finish,
    };
    first_of(first, rules, ask, guard).await
}

/// How two tries are told apart.
struct Rules<B, F, E> {
    after: Duration,
    /// A second one, if it may be.
    beside: B,
    fault: F,
    finish: E,
}

async fn first_of<S, T, G>(
    mut first: S,
    rules: Rules<impl FnOnce() -> Option<S>, impl Fn(&T) -> Option<Outcome>, impl Fn(S, Outcome)>,
    ask: impl AsyncFn(&mut S) -> T,
    mut guard: impl FnMut(&mut Context<'_>) -> Poll<G>,
) -> Result<(S, T), (S, G)> {
    let Rules {
        after,
        beside: second,
        fault,
        finish,
    } = rules;
    let mut beside = None;
    let mut early = None;
    let end = {
        let mut original = pin!(ask(&mut first));
        let mut patience = pin!(sleep(after));
        let waited = poll_fn(|cx| {
            if let Poll::Ready(answer) = original.as_mut().poll(cx) {
                return Poll::Ready(Some(Ok(answer)));
            }
            if let Poll::Ready(stop) = guard(cx) {
                return Poll::Ready(Some(Err(stop)));
            }
            patience.as_mut().poll(cx).map(|()| None)
        })
        .await;
        match waited {
            Some(end) => end.map(|answer| (true, answer)),
            None => {
                beside = second();
                let alone = beside.is_none();
                let mut other = pin!(async {
                    match &mut beside {
                        Some(second) => ask(second).await,
                        None => pending().await,
                    }
                });
                poll_fn(|cx| {
                    let waits = !matches!(early, Some((true, _)));
                    if waits && let Poll::Ready(answer) = original.as_mut().poll(cx) {
                        if alone || early.is_some() || fault(&answer).is_none() {
                            return Poll::Ready(Ok((true, answer)));
                        }
                        early = Some((true, answer));
                    }
                    let waits = !matches!(early, Some((false, _)));
                    if waits && let Poll::Ready(answer) = other.as_mut().poll(cx) {
                        if early.is_some() || fault(&answer).is_none() {
                            return Poll::Ready(Ok((false, answer)));
                        }
                        early = Some((false, answer));
                    }
                    guard(cx).map(Err)
                })
                .await
            }
        }
    };
    // One that had not answered yet is at least as slow as that.
    let verdict = early
        .as_ref()
        .and_then(|(_, answer)| fault(answer))
        .unwrap_or(Outcome::Overtaken);
    match (end, beside) {
        (Ok((true, answer)), beside) => {
            if let Some(second) = beside {
                finish(second, verdict);
            }
            Ok((first, answer))
        }
        (Ok((false, answer)), Some(second)) => {
            finish(first, verdict);
            Ok((second, answer))
        }
        // Without a second try there is no answer of it.
        (Ok((false, answer)), None) => Ok((first, answer)),
        (Err(stop), _) => Err((first, stop)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;
    use tokio::time::Instant;

    const AFTER: Duration = Duration::from_millis(50);

    /// Two tries that answer after so many milliseconds, well or not: who counts and after how many milliseconds, and what was
    /// said of the other.
    async fn raced(answers: [(u64, bool); 2], second: bool) -> ((usize, u128), Vec<(usize, Outcome)>) {
        let begun = Instant::now();
        let finished = RefCell::default();
        let rules = Rules {
            after: AFTER,
            beside: || second.then_some(1),
            fault: |good: &bool| (!good).then_some(Outcome::Reset),
            finish: |n: usize, outcome| {
                let finished: &RefCell<Vec<_>> = &finished;
                finished.borrow_mut().push((n, outcome));
            },
        };
        let ask = async |n: &mut usize| {
            let (millis, good) = answers[*n];
            tokio::time::sleep(Duration::from_millis(millis)).await;
            good
        };
        let guard = |_: &mut Context<'_>| Poll::<()>::Pending;
        let (who, _) = first_of(0, rules, ask, guard).await.unwrap();
        let took = begun.elapsed().as_millis();
        ((who, took), finished.into_inner())
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_good_answer_counts() {
        let (slow, bad) = (Outcome::Overtaken, Outcome::Reset);
        for (answers, wanted, other) in [
            ([(10, true), (5, true)], (0, 10), None),
            ([(30, false), (1, true)], (0, 30), None),
            ([(200, true), (20, true)], (1, 70), Some((0, slow))),
            ([(60, true), (20, true)], (0, 60), Some((1, slow))),
            ([(200, true), (20, false)], (0, 200), Some((1, bad))),
            ([(60, false), (50, true)], (1, 100), Some((0, bad))),
            ([(60, false), (20, false)], (1, 70), Some((0, bad))),
        ] {
            let (who, finished) = raced(answers, true).await;
            assert_eq!(who, wanted, "{answers:?}");
            assert_eq!(finished.first().copied(), other, "{answers:?}");
        }
        // Where no second one may be, the first is waited for.
        let (who, finished) = raced([(200, false), (1, true)], false).await;
        assert_eq!((who, finished.len()), ((0, 200), 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_guard_ends_it() {
        for begins in [10, 100] {
            let end = Instant::now() + Duration::from_millis(begins);
            let mut alarm = crate::alarm::Alarm::default();
            let rules = Rules {
                after: AFTER,
                beside: || Some(1),
                fault: |(): &()| None,
                finish: |_, _| {},
            };
            let ended = first_of(
                0,
                rules,
                async |_: &mut i32| pending().await,
                |cx| alarm.poll_at(cx, end),
            )
            .await;
            assert_eq!(ended, Err((0, ())));
            assert_eq!(Instant::now(), end);
        }
    }
}

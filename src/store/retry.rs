//! Trying again what may succeed the next time, until a deadline.
//!
//! object_store tries single requests again by itself (5xx, connections that break). What it does not: a body that
//! ends early, a listing that is no XML, an answer that belongs to another length, an upload whose last answer got
//! lost. So each operation as a whole is tried again here, under one deadline.

use std::time::{Duration, Instant};

use object_store::Error;

/// Between the first two attempts; doubled after each, up to [`LONGEST_WAIT`].
const FIRST_WAIT: Duration = Duration::from_millis(50);
pub(super) const LONGEST_WAIT: Duration = Duration::from_secs(8);
/// An answer that says something about the object which may be the answer's fault (its size, say) is believed when it
/// came this often in a row.
const BELIEVED_AFTER: u32 = 3;

/// Where the clouds' machines ask for credentials.
const METADATA_SERVICES: [&str; 3] = ["169.254.169.254", "169.254.170.2", "metadata.google.internal"];

/// What to make of an attempt that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It will not go better the next time.
    Final,
    /// The object or the answer is wrong: ask again to know which.
    Doubtful,
    Transient,
}

/// How long an operation is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Retry {
    /// From the operation's beginning on; after it nothing is tried again.
    deadline: Duration,
}

impl Retry {
    /// For stores that do not fail by chance: files, memory.
    pub(super) const NEVER: Retry = Retry { deadline: Duration::ZERO };

    #[cfg(any(feature = "cloud", test))]
    pub(super) fn until(deadline: Duration) -> Self {
        Self { deadline }
    }

    /// The result of the first attempt that succeeds, or of the last.
    pub(super) async fn run<T, E, F: Future<Output = Result<T, E>>>(
        self,
        mut attempt: impl FnMut() -> F,
        verdict: impl Fn(&E) -> Verdict,
    ) -> Result<T, E> {
        let mut patience = self.patience();
        loop {
            let error = match attempt().await {
                Ok(value) => return Ok(value),
                Err(error) => error,
            };
            match patience.wait_after(verdict(&error)) {
                Some(wait) => tokio::time::sleep(wait).await,
                None => return Err(error),
            }
        }
    }

    pub(super) fn patience(self) -> Patience {
        Patience { start: Instant::now(), deadline: self.deadline, wait: FIRST_WAIT, doubtful: 0 }
    }
}

/// What is left of an operation's patience.
#[derive(Debug)]
pub(super) struct Patience {
    start: Instant,
    deadline: Duration,
    wait: Duration,
    doubtful: u32,
}

impl Patience {
    /// How long to wait before the next attempt; `None` if there is to be none.
    pub(super) fn wait_after(&mut self, verdict: Verdict) -> Option<Duration> {
        self.doubtful = if verdict == Verdict::Doubtful { self.doubtful + 1 } else { 0 };
        let elapsed = self.start.elapsed();
        if verdict == Verdict::Final || self.doubtful >= BELIEVED_AFTER || elapsed >= self.deadline {
            return None;
        }
        let wait = self.wait.min(self.deadline - elapsed);
        self.wait = (self.wait * 2).min(LONGEST_WAIT);
        Some(wait)
    }
}

/// What a store's error says about the next attempt.
pub(super) fn verdict(error: &Error) -> Verdict {
    match error {
        // What is asked for after an answer that said a wrong length and was resumed: the object itself is fine.
        Error::Generic { .. } if has_status(error, "416") => Verdict::Doubtful,
        Error::Generic { .. } if is_refusal(error) => Verdict::Final,
        Error::Generic { .. } | Error::JoinError { .. } => Verdict::Transient,
        _ => Verdict::Final,
    }
}

/// As [`verdict`], of an upload in parts: where an answer was lost and the request sent again, the store knows the upload
/// no more.
pub(super) fn verdict_of_upload(error: &Error) -> Verdict {
    match error {
        Error::NotFound { .. } => Verdict::Doubtful,
        error => verdict(error),
    }
}

/// A request that the store understood and will not serve: 4xx, but for those that mean "later"; or a machine that has no
/// credentials, and no cloud's metadata service to ask for them. object_store says these things in its text only; a text
/// that says it otherwise costs attempts, no more.
fn is_refusal(error: &Error) -> bool {
    let text = error.to_string();
    METADATA_SERVICES.iter().any(|host| text.contains(host))
        || is_unimplemented(error)
        || has_status(error, "4") && !has_status(error, "408") && !has_status(error, "429")
}

/// 501, as some stores answer to a header of a condition that they do not know.
pub(super) fn is_unimplemented(error: &Error) -> bool {
    has_status(error, "501")
}

fn has_status(error: &Error, digits: &str) -> bool {
    let text = error.to_string();
    text.split_once("non-2xx status code: ").is_some_and(|(_, status)| status.starts_with(digits))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    fn status(status: &str) -> Error {
        let source = format!("Error performing GET - Server returned non-2xx status code: {status}: ").into();
        Error::Generic { store: "S3", source }
    }

    #[test]
    fn refusals_are_final_and_failures_are_not() {
        for (error, expected) in [
            (status("503 Service Unavailable"), Verdict::Transient),
            (status("429 Too Many Requests"), Verdict::Transient),
            (status("400 Bad Request"), Verdict::Final),
            (status("501 Not Implemented"), Verdict::Final),
            (status("416 Range Not Satisfiable"), Verdict::Doubtful),
            (
                Error::Generic { store: "S3", source: "PUT http://169.254.169.254/latest/api/token".into() },
                Verdict::Final,
            ),
            (Error::Generic { store: "S3", source: "connection reset".into() }, Verdict::Transient),
            (Error::NotFound { path: "x".into(), source: "x".into() }, Verdict::Final),
            (Error::PermissionDenied { path: "x".into(), source: "x".into() }, Verdict::Final),
        ] {
            assert_eq!(verdict(&error), expected, "{error}");
        }
    }

    fn attempts(retry: Retry, outcomes: &[Result<(), Verdict>]) -> (u32, Result<(), Verdict>) {
        let made = Cell::new(0);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let attempt = || {
            let outcome = outcomes[(made.get() as usize).min(outcomes.len() - 1)];
            made.set(made.get() + 1);
            async move { outcome }
        };
        let result = runtime.block_on(retry.run(attempt, |verdict| *verdict));
        (made.get(), result)
    }

    #[test]
    fn what_may_succeed_is_tried_again_and_nothing_else_is() {
        use Verdict::{Doubtful, Final, Transient};
        let patient = Retry::until(Duration::from_secs(60));
        assert_eq!(attempts(patient, &[Err(Transient), Err(Doubtful), Ok(())]), (3, Ok(())));
        assert_eq!(attempts(patient, &[Err(Final)]), (1, Err(Final)));
        assert_eq!(attempts(patient, &[Err(Doubtful)]), (BELIEVED_AFTER, Err(Doubtful)));
        assert_eq!(attempts(Retry::NEVER, &[Err(Transient)]), (1, Err(Transient)));
        let (made, result) = attempts(Retry::until(Duration::from_millis(120)), &[Err(Transient)]);
        assert!((2..=4).contains(&made) && result == Err(Transient), "{made} attempts");
    }
}

//! When a request must be answered: one moment for everything that is done for it.

use std::time::{Duration, Instant};

use super::Fault;
use crate::loader::QueryError;

/// Beyond it a clock need not count.
const LONGEST: Duration = Duration::from_secs(86_400);

/// Rows that are gone through between two looks at the clock.
const ROWS_PER_LOOK: usize = 1024;

#[derive(Debug, Clone, Copy)]
pub(super) struct Deadline {
    start: Instant,
    allowed: Duration,
}

impl Deadline {
    /// So long from now on.
    pub fn after(allowed: Duration) -> Self {
        Self { start: Instant::now(), allowed: allowed.min(LONGEST) }
    }

    /// That soon after the same beginning, or sooner.
    pub fn within(self, allowed: Duration) -> Self {
        Self { allowed: allowed.min(self.allowed), ..self }
    }

    pub fn start(self) -> Instant {
        self.start
    }

    pub fn allowed(self) -> Duration {
        self.allowed
    }

    pub fn end(self) -> Instant {
        self.start + self.allowed
    }

    pub fn fault(self) -> Fault {
        Fault::TimeOut { allowed_seconds: self.allowed.as_secs_f64() }
    }

    /// # Errors
    /// [`Fault::TimeOut`], once it has passed.
    pub fn check(self) -> Result<(), Fault> {
        if Instant::now() < self.end() { Ok(()) } else { Err(self.fault()) }
    }

    /// The same for the row of this number of many, cheaply.
    pub fn check_row(self, number: usize) -> Result<(), Fault> {
        if number.is_multiple_of(ROWS_PER_LOOK) { self.check() } else { Ok(()) }
    }

    /// What a part of the work that had to end with all of it came to.
    pub fn of<T>(self, part: Result<T, QueryError>) -> Result<T, Fault> {
        part.map_err(|error| match error {
            QueryError::TimeOut { .. } => self.fault(),
            error => error.into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_is_only_ever_brought_forward() {
        let deadline = Deadline::after(Duration::from_secs(10));
        assert_eq!(deadline.within(Duration::MAX).end(), deadline.end());
        assert_eq!(deadline.within(Duration::ZERO).end(), deadline.start());
        assert!(deadline.check().is_ok());
        let over = deadline.within(Duration::ZERO);
        assert_eq!(over.check(), Err(Fault::TimeOut { allowed_seconds: 0.0 }));
        assert_eq!((over.check_row(1).is_ok(), over.check_row(0).is_ok()), (true, false));
        assert!(Deadline::after(Duration::MAX).end() > deadline.end());
    }
}

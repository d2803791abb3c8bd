//! Ctrl-C. Asks the job to stop and leaves the stopping to it.

use std::io::Write;

use crate::error::Error;
use crate::job::CancelToken;

/// Ctrl-C (or SIGTERM) asks `token`'s job to stop; a second one ends the process at once. Nothing is published either
/// way: a manifest is written last, in one piece.
///
/// # Errors
/// If the process has another handler.
pub fn cancel_on_ctrl_c(token: CancelToken) -> Result<(), Error> {
    ctrlc::set_handler(move || {
        if token.cancel() {
            std::process::exit(i32::from(Error::Cancelled.exit_code()));
        }
        let _ = writeln!(std::io::stderr(), "stopping; press Ctrl-C again to end at once");
    })
    .map_err(|error| Error::Internal(Box::new(error)))
}

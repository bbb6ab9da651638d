//! The subcommands that the sandbox starts itself by.
//!
//! Enters: the command line, before any thread exists. Leaves: an exit code, if the command was one of the hidden
//! ones. Never happens: a hidden subcommand that returns into the ordinary program.

use std::ffi::OsString;

use crate::{enter, pod};

/// Enters the namespaces, and waits for their init.
pub(crate) const ENTER: &str = "__enter";
/// PID 1 of the sandbox.
pub(crate) const INIT: &str = "__init";
/// Makes a pod's namespaces.
pub(crate) const POD: &str = "__pod";
/// PID 1 of a pod.
pub(crate) const PAUSE: &str = "__pause";
/// Becomes a container's command.
pub(crate) const CONTAINER: &str = "__container";
/// Becomes a command of `weft exec`.
pub(crate) const EXEC: &str = "__exec";

/// Runs the hidden subcommand that the command line names and returns its exit code; none for an ordinary command.
///
/// To be called first in `main`, before any thread: of the `weft` binary, and of every test binary that makes a
/// sandbox (which starts itself again under the same names).
pub fn hidden_main() -> Option<i32> {
    let mut arguments = std::env::args_os().skip(1);
    let name = arguments.next()?;
    let rest: Vec<OsString> = arguments.collect();
    Some(match name.to_str()? {
        ENTER => enter::init::enter_main(&rest),
        INIT => enter::init::init_main(&rest),
        POD => pod::pause::pod_main(&rest),
        PAUSE => pod::pause::pause_main(),
        CONTAINER => pod::container::container_main(),
        EXEC => pod::exec::join_main(&rest),
        _ => return None,
    })
}

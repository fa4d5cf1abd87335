use std::{
    io::{self, Write},
    thread,
};

/// Aborts the process when its holder panics: a restarted process is better than one that holds sockets and no longer
/// serves them.
pub struct AbortOnPanic;

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if thread::panicking() {
            // Not with `eprintln`, whose output tests capture, so that it is lost with them.
            let name = thread::current().name().unwrap_or("without a name").to_owned();
            let _ = writeln!(io::stderr(), "tcplb: a panic of thread {name} aborts the process");
            std::process::abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{env, os::unix::process::ExitStatusExt, process::Command};

    use super::*;

    #[test]
    fn a_panic_aborts_the_process_and_its_thread_is_named() {
        const PANIC: &str = "TCPLB_TEST_PANIC";
        if env::var_os(PANIC).is_some() {
            let _abort = AbortOnPanic;
            panic!("as this test wants");
        }
        let name = "proxy::worker::abort_on_panic::tests::a_panic_aborts_the_process_and_its_thread_is_named";
        let mut command = Command::new(env::current_exe().unwrap());
        // With several threads, the one of a test has its name.
        let output = command.args(["--exact", name, "--test-threads=2"]).env(PANIC, "1").output().unwrap();
        assert_eq!(output.status.signal(), Some(libc::SIGABRT));
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(told.contains(&format!("tcplb: a panic of thread {name} aborts the process")), "{told}");
    }
}

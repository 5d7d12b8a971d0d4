// SPDX-License-Identifier: Apache-2.0
//! `podswitchd --watchdog` by itself, with a shell for its daemon. What it is for is in `guest`.

use std::process::Command;
use std::time::{Duration, Instant};

use podswitch_tests::HUNG;
use podswitch_tests::programs::{Ended, bin_dir, run};

/// A shell that has a watchdog with this limit, and what `input` prints for its input; it ends with status 7 by itself.
#[track_caller]
fn watched(input: &str, limit: Duration) -> Ended {
    let watchdog = bin_dir().join("podswitchd");
    let script = format!(
        "({input}) | {} --watchdog {}; exit 7",
        watchdog.display(),
        limit.as_millis()
    );
    run(Command::new("sh").args(["-c", &script]), b"", HUNG)
}

#[test]
fn a_daemon_without_signs_of_life_is_killed() {
    let limit = Duration::from_millis(400);
    let begun = Instant::now();
    // Two bytes, and then nothing for as long as the shell lives.
    let ended = watched(
        "printf a; sleep 0.3; printf a; exec tail -f /dev/null --pid=$$",
        limit,
    );
    assert_eq!(ended.status, 128 + 9, "{ended:?}");
    assert!(begun.elapsed() >= Duration::from_millis(300) + limit);
    assert!(ended.stderr.contains("has not run for 400 ms"), "{ended:?}");
}

#[test]
fn a_watchdog_ends_with_its_input() {
    let ended = watched("printf aaa", HUNG);
    assert_eq!((ended.status, ended.stderr.as_str()), (7, ""), "{ended:?}");
}

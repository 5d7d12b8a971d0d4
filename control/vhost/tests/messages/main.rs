// SPDX-License-Identifier: Apache-2.0
//! Ports whose frontend says what it should, and what it should not.

mod bed;
#[allow(dead_code, reason = "written for the tests of the queues themselves")]
#[path = "../../../../datapath/tests/vhost/driver.rs"]
mod driver;
mod faults;
mod frontend;
mod kept;
mod setup;
mod worker;

// SPDX-License-Identifier: Apache-2.0
//! Ports whose peer has virtqueues, by a driver that is written apart.

mod bed;
mod driver;
mod frames;
mod hostile;
mod kept;
mod lent;
mod oracle;
mod told;

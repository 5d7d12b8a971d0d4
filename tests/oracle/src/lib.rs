// SPDX-License-Identifier: Apache-2.0
//! A naive reading of Kubernetes network policy, to hold the policy compiler and the tables against.
//!
//! [`oracle`] is written from the Kubernetes texts alone and shares nothing with what it judges: it reads policies as manifests, the
//! JSON that the API server has, and walks over plain lists for each packet. [`generate`] makes small clusters in which much
//! overlaps, packets aimed at the edges of policies, and changes.
//!
//! | module | what is there |
//! |---|---|
//! | [`cluster`] | a cluster as lists |
//! | [`oracle`] | what the Kubernetes texts say about one connection |
//! | [`generate`] | random clusters, packets and changes from a seed |
//! | [`corpus`] | manifests from files |
//! | [`node`] | compiler and tables, as a daemon has them |
//! | [`compare`] | both held against each other, and what they disagree about made small |
#![forbid(unsafe_code)]

pub mod cluster;
pub mod compare;
pub mod corpus;
pub mod generate;
pub mod node;
pub mod oracle;
mod selector;

// SPDX-License-Identifier: Apache-2.0
//! A small client of the Kubernetes Container Runtime Interface, version v1: pod sandboxes only.
//!
//! The messages carry the field numbers of `runtime.v1`; fields that the tests do not use are left out, which protobuf
//! allows.

use std::collections::HashMap;
use std::path::Path;

use serde_json::Value;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};
use tonic_prost::ProstCodec;

use crate::wait::HUNG;

/// `PodSandboxMetadata`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Metadata {
    /// Pod name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Pod UID.
    #[prost(string, tag = "2")]
    pub uid: String,
    /// Pod namespace.
    #[prost(string, tag = "3")]
    pub namespace: String,
    /// How many times it was tried before.
    #[prost(uint32, tag = "4")]
    pub attempt: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
struct LinuxConfig {
    #[prost(string, tag = "1")]
    cgroup_parent: String,
}

/// `PortMapping` of TCP, by its first number.
#[derive(Clone, PartialEq, prost::Message)]
pub struct PortMapping {
    /// The pod's port.
    #[prost(int32, tag = "2")]
    pub container_port: i32,
    /// The node's.
    #[prost(int32, tag = "3")]
    pub host_port: i32,
}

#[derive(Clone, PartialEq, prost::Message)]
struct SandboxConfig {
    #[prost(message, optional, tag = "1")]
    metadata: Option<Metadata>,
    #[prost(string, tag = "2")]
    hostname: String,
    #[prost(string, tag = "3")]
    log_directory: String,
    #[prost(message, repeated, tag = "5")]
    port_mappings: Vec<PortMapping>,
    #[prost(message, optional, tag = "8")]
    linux: Option<LinuxConfig>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct RunRequest {
    #[prost(message, optional, tag = "1")]
    config: Option<SandboxConfig>,
}

/// Requests and answers that hold a sandbox id and nothing else.
#[derive(Clone, PartialEq, prost::Message)]
struct SandboxId {
    #[prost(string, tag = "1")]
    id: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Empty {}

#[derive(Clone, PartialEq, prost::Message)]
struct StatusRequest {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(bool, tag = "2")]
    verbose: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
struct PodIp {
    #[prost(string, tag = "1")]
    ip: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct NetworkStatus {
    #[prost(string, tag = "1")]
    ip: String,
    #[prost(message, repeated, tag = "2")]
    additional_ips: Vec<PodIp>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct SandboxStatus {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(message, optional, tag = "5")]
    network: Option<NetworkStatus>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct StatusAnswer {
    #[prost(message, optional, tag = "1")]
    status: Option<SandboxStatus>,
    #[prost(map = "string, string", tag = "2")]
    info: HashMap<String, String>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Condition {
    #[prost(string, tag = "1")]
    kind: String,
    #[prost(bool, tag = "2")]
    status: bool,
    #[prost(string, tag = "4")]
    message: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct RuntimeStatus {
    #[prost(message, repeated, tag = "1")]
    conditions: Vec<Condition>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct RuntimeStatusAnswer {
    #[prost(message, optional, tag = "1")]
    status: Option<RuntimeStatus>,
}

/// A running pod sandbox, as the runtime reports it.
#[derive(Debug, Clone)]
pub struct Sandbox {
    /// Its id, the `CNI_CONTAINERID` of the plugin's calls.
    pub id: String,
    /// Addresses: the first, then the additional ones.
    pub ips: Vec<std::net::IpAddr>,
    /// Path of its network namespace, in the runtime's mount namespace.
    pub netns: String,
}

/// A blocking client of one runtime.
#[derive(Debug)]
pub struct Cri {
    runtime: tokio::runtime::Runtime,
    channel: Channel,
}

impl Cri {
    /// Connects to a unix socket.
    pub fn connect(socket: &Path) -> Result<Cri, String> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|e| e.to_string())?;
        let endpoint = Endpoint::from_shared(format!("unix://{}", socket.display()))
            .map_err(|e| e.to_string())?;
        let channel = runtime
            .block_on(endpoint.timeout(2 * HUNG).connect())
            .map_err(|e| e.to_string())?;
        Ok(Cri { runtime, channel })
    }

    fn call<Q, A>(&self, method: &str, request: Q) -> Result<A, tonic::Status>
    where
        Q: prost::Message + Send + Sync + 'static,
        A: prost::Message + Default + Send + Sync + 'static,
    {
        let path = format!("/runtime.v1.RuntimeService/{method}");
        let path = PathAndQuery::from_maybe_shared(path).expect("a method's path");
        let mut grpc = Grpc::new(self.channel.clone());
        self.runtime.block_on(async {
            grpc.ready()
                .await
                .map_err(|e| tonic::Status::unavailable(e.to_string()))?;
            let answer = grpc
                .unary(
                    tonic::Request::new(request),
                    path,
                    ProstCodec::<Q, A>::default(),
                )
                .await?;
            Ok(answer.into_inner())
        })
    }

    /// What keeps the runtime from being ready, by its own words; none if it is.
    pub fn not_ready(&self) -> Option<String> {
        let answer: RuntimeStatusAnswer = match self.call("Status", Empty {}) {
            Ok(answer) => answer,
            Err(status) => return Some(status.to_string()),
        };
        let conditions = answer.status.unwrap_or_default().conditions;
        if conditions.is_empty() {
            return Some("no conditions reported".to_owned());
        }
        conditions
            .into_iter()
            .find(|c| !c.status)
            .map(|c| format!("{}: {}", c.kind, c.message))
    }

    /// `RunPodSandbox`; the id of the sandbox.
    pub fn run(
        &self,
        metadata: Metadata,
        port_mappings: &[PortMapping],
        cgroup_parent: &str,
    ) -> Result<String, tonic::Status> {
        let config = SandboxConfig {
            hostname: metadata.name.clone(),
            metadata: Some(metadata),
            log_directory: String::new(),
            port_mappings: port_mappings.to_vec(),
            linux: Some(LinuxConfig {
                cgroup_parent: cgroup_parent.to_owned(),
            }),
        };
        let answer: SandboxId = self.call(
            "RunPodSandbox",
            RunRequest {
                config: Some(config),
            },
        )?;
        Ok(answer.id)
    }

    /// `PodSandboxStatus`.
    pub fn status(&self, id: &str) -> Result<Sandbox, tonic::Status> {
        let answer: StatusAnswer = self.call(
            "PodSandboxStatus",
            StatusRequest {
                id: id.to_owned(),
                verbose: true,
            },
        )?;
        let network = answer
            .status
            .unwrap_or_default()
            .network
            .unwrap_or_default();
        let more = network.additional_ips.iter().map(|ip| &ip.ip);
        let ips = std::iter::once(&network.ip)
            .chain(more)
            .filter_map(|ip| ip.parse().ok())
            .collect();
        let info: Value = answer
            .info
            .get("info")
            .and_then(|text| serde_json::from_str(text).ok())
            .unwrap_or_default();
        let namespaces = info["runtimeSpec"]["linux"]["namespaces"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        let network = namespaces.iter().find(|n| n["type"] == "network");
        let netns = network
            .and_then(|n| n["path"].as_str())
            .unwrap_or_default()
            .to_owned();
        Ok(Sandbox {
            id: id.to_owned(),
            ips,
            netns,
        })
    }

    /// `StopPodSandbox`.
    pub fn stop(&self, id: &str) -> Result<(), tonic::Status> {
        self.call("StopPodSandbox", SandboxId { id: id.to_owned() })
            .map(|_: Empty| ())
    }

    /// `RemovePodSandbox`.
    pub fn remove(&self, id: &str) -> Result<(), tonic::Status> {
        self.call("RemovePodSandbox", SandboxId { id: id.to_owned() })
            .map(|_: Empty| ())
    }
}

// SPDX-License-Identifier: Apache-2.0
//! What load balancers ask at a Service's `healthCheckNodePort`: whether there is an endpoint on this node.
//! The answers are kube-proxy's (`pkg/proxy/healthcheck/service_health.go`).

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use podswitch_api::object::NamespacedName;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::watch::Receiver;
use tokio::task::JoinHandle;

use crate::http::HEAD;
use crate::services::HealthChecks;

/// Header with the number of endpoints, by which a load balancer may weigh its nodes.
const WEIGHT: HeaderName = HeaderName::from_static("x-load-balancing-endpoint-weight");

/// Answers at all ports that are asked for, for ever.
pub async fn serve(mut checks: Receiver<HealthChecks>) {
    let mut running: BTreeMap<NamespacedName, (u16, JoinHandle<()>)> = BTreeMap::new();
    loop {
        let wanted = checks.borrow_and_update().clone();
        running.retain(|name, (port, task)| {
            let stays = wanted.get(name).is_some_and(|health| health.port == *port);
            if !stays {
                task.abort();
            }
            stays && !task.is_finished()
        });
        for (name, health) in &wanted {
            if !running.contains_key(name) {
                let task = tokio::spawn(serve_one(name.clone(), health.port, checks.clone()));
                running.insert(name.clone(), (health.port, task));
            }
        }
        if checks.changed().await.is_err() {
            return;
        }
    }
}

/// Listens at a port of all addresses, of both families where there are both.
async fn listen(port: u16) -> io::Result<TcpListener> {
    match TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).await {
        Err(e) if e.kind() != io::ErrorKind::AddrInUse => {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).await
        }
        bound => bound,
    }
}

async fn serve_one(name: NamespacedName, port: u16, checks: Receiver<HealthChecks>) {
    let listener = match listen(port).await {
        Ok(listener) => listener,
        Err(error) => {
            tracing::warn!(service = %name, port, %error, "healthCheckNodePort is not served");
            return;
        }
    };
    while let Ok((stream, _)) = listener.accept().await {
        let local = checks.borrow().get(&name).map_or(0, |h| h.local_ready);
        let name = name.clone();
        tokio::spawn(async move {
            let service = service_fn(|_| {
                let answer = answer(&name, local);
                async move { Ok::<_, Infallible>(answer) }
            });
            let mut server = http1::Builder::new();
            server.timer(TokioTimer::new()).header_read_timeout(HEAD);
            server.keep_alive(false);
            // A client that breaks off harms nobody.
            let _ = server.serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

fn answer(name: &NamespacedName, local: usize) -> Response<Full<Bytes>> {
    let body = json!({"service": {"namespace": name.namespace, "name": name.name}, "localEndpoints": local, "serviceProxyHealthy": true});
    let mut response = Response::new(Full::new(Bytes::from(body.to_string())));
    *response.status_mut() = match local {
        0 => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::OK,
    };
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(WEIGHT, HeaderValue::from(local));
    response
}

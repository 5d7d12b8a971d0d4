// SPDX-License-Identifier: Apache-2.0
//! Puts the parts together: readers of the API on an async runtime, the keeper on a thread of its own.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use futures::future::{Either, select};
use kube::Client;
use tokio::net::TcpListener;
use tokio::runtime::Builder;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc::{Sender, channel};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::config::Config;
use crate::core::Input;
use crate::keeper::Keeper;
use crate::metrics::Metrics;
use crate::services::{HealthChecks, ServiceTranslator};
use crate::slim::{
    ClusterNetworkPolicy, EndpointSlice, Namespace, NetworkPolicy, Node, Pod, Service,
};
use crate::watch::watch as read;
use crate::{balancers, events, http, kubernetes};

/// Inputs that wait for the keeper: a reader that is faster waits.
const INPUTS: usize = 4096;
/// Complaints that wait to be written as events.
const COMPLAINTS: usize = 256;
/// How long the keeper may take to end.
const PATIENCE: Duration = Duration::from_secs(2);

/// Runs until SIGTERM or SIGINT. What the daemon has then stays.
///
/// # Errors
/// What keeps the agent from starting, naming the key of the configuration at fault.
pub fn run(config: Config, node: String) -> Result<(), Box<dyn Error>> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let handle = runtime.handle().clone();
    runtime.block_on(async {
        let client = kubernetes::client(&config.kubernetes).await?;
        let listener = TcpListener::bind(config.listen)
            .await
            .map_err(|e| format!("listen = {}: {e}", config.listen))?;
        let metrics = Arc::new(Metrics::default());
        tokio::spawn(http::serve(listener, metrics.clone()));
        let (complaints, written) = channel(COMPLAINTS);
        tokio::spawn(events::write(client.clone(), node.clone(), written));
        let (inputs, heard) = channel(INPUTS);
        let (told, checks) = watch::channel(HealthChecks::new());
        tokio::spawn(balancers::serve(checks));
        let services = Box::new(ServiceTranslator::new(told));
        let keeper = Keeper::new(config, node, metrics.clone(), complaints, services);
        let (running, stopped) = oneshot::channel::<()>();
        let thread = std::thread::Builder::new().name("keeper".to_owned());
        thread.spawn(move || {
            keeper.run(heard, &handle);
            drop(running);
        })?;
        let mut readers = watch_all(&client, &inputs, &metrics);
        ended(&inputs).await?;
        tracing::info!("ends; podswitchd keeps what it has");
        readers.shutdown().await;
        drop(inputs);
        // A call to podswitchd may take long; it is carried out whole or not at all.
        let _ = timeout(PATIENCE, stopped).await;
        Ok(())
    })
}

/// Waits until somebody ends the agent, or the keeper has ended, which it never does by itself.
async fn ended(inputs: &Sender<Input>) -> Result<(), Box<dyn Error>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let asked = select(Box::pin(terminate.recv()), Box::pin(interrupt.recv()));
    match select(asked, Box::pin(inputs.closed())).await {
        Either::Left(_) => Ok(()),
        Either::Right(_) => Err("the thread that keeps podswitchd has ended; see the log".into()),
    }
}

fn watch_all(client: &Client, inputs: &Sender<Input>, metrics: &Arc<Metrics>) -> JoinSet<()> {
    let mut readers = JoinSet::new();
    macro_rules! watch_kinds {
        ($($kind:ty),+) => {$(
            readers.spawn(read::<$kind>(client.clone(), inputs.clone(), metrics.clone()));
        )+};
    }
    watch_kinds!(
        Node,
        Namespace,
        Pod,
        Service,
        EndpointSlice,
        NetworkPolicy,
        ClusterNetworkPolicy
    );
    readers
}

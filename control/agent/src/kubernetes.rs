// SPDX-License-Identifier: Apache-2.0
//! A client of the cluster's API.

use std::path::PathBuf;

use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

use crate::config::KubernetesConfig;

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The kubeconfig cannot be read or used.
    #[error("{path}: {source}", path = path.display())]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: kube::config::KubeconfigError,
    },
    /// The agent does not run in a pod with a service account.
    #[error("{0}; run the agent in a pod with a service account, or give kubernetes.kubeconfig")]
    InCluster(#[from] kube::config::InClusterError),
    /// The URL is none.
    #[error("kubernetes.api_server = {url}: {message}; write one such as https://192.0.2.1:6443")]
    Url {
        /// The URL.
        url: String,
        /// What is wrong with it.
        message: String,
    },
    /// The credentials cannot be used.
    #[error("the API server's credentials cannot be used: {0}")]
    Client(#[from] kube::Error),
}

/// A client as the configuration says. Nothing is asked yet.
///
/// # Errors
/// [`ClientError`].
pub async fn client(config: &KubernetesConfig) -> Result<Client, ClientError> {
    let mut of = match &config.kubeconfig {
        Some(path) => {
            let failed = |source| ClientError::Kubeconfig {
                path: path.clone(),
                source,
            };
            let file = Kubeconfig::read_from(path).map_err(failed)?;
            let options = KubeConfigOptions::default();
            Config::from_custom_kubeconfig(file, &options)
                .await
                .map_err(failed)?
        }
        None => Config::incluster()?,
    };
    if let Some(url) = &config.api_server {
        of.cluster_url = url.parse().map_err(|e| ClientError::Url {
            url: url.clone(),
            message: format!("{e}"),
        })?;
    }
    // Errors are counted and waited for here, by kind.
    of.default_retry = false;
    Ok(Client::try_from(of)?)
}

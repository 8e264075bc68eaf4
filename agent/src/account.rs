//! The device's name and the services it belongs to.

use spoke_protocol::ClientId;
use spoke_service::config::ServiceUrl;

/// The three settings without a default.
#[derive(Debug, Clone)]
pub struct DeviceAccount {
    /// The identity of this device.
    pub client: ClientId,
    /// The URL of auth.
    pub auth: ServiceUrl,
    /// The URL of the hub.
    pub hub: ServiceUrl,
}

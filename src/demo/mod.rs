//! A simulated plant in this process: a Modbus PLC, an OPC UA server, an MQTT
//! broker and a Kafka cluster on loopback sockets, and the physics behind
//! them. Everything a topology sees of it goes over a real protocol.

mod cluster;
mod fleet;
mod soil;
mod turbines;

use std::collections::BTreeMap;

use crate::exit::Failure;

/// A running plant; it ends when this is dropped.
pub(crate) struct Plant {
    soil: soil::Soil,
    turbines: turbines::Turbines,
    fleet: fleet::Fleet,
    cluster: cluster::Cluster,
}

impl Plant {
    /// Starts every server; must be called on the I/O runtime.
    pub(crate) async fn start() -> Result<Plant, Failure> {
        Ok(Plant {
            soil: soil::Soil::start().await?,
            turbines: turbines::Turbines::start().await?,
            fleet: fleet::Fleet::start()?,
            cluster: cluster::Cluster::start()?,
        })
    }

    /// Where everything is, as variables of the topologies; and shorter times,
    /// so that a visitor sees each trigger fire.
    pub(crate) fn variables(&self) -> BTreeMap<String, String> {
        let pairs = [
            ("PLC", format!("tcp://{}", self.soil.address)),
            ("SCADA", self.turbines.endpoint.clone()),
            ("BROKER", format!("mqtt://{}", self.fleet.address)),
            ("KAFKA", self.cluster.brokers.clone()),
            ("SOIL_EVERY", "200ms".into()),
            ("SOIL_WINDOW", "2s".into()),
            ("SOIL_SLIDE", "1s".into()),
            ("SOIL_ROWS", "5".into()),
            ("SOIL_HOLD", "1s".into()),
            ("SOIL_COOLDOWN", "1m".into()),
            ("VIBRATION_SIZE", "1s".into()),
            ("VIBRATION_SLIDE", "500ms".into()),
            ("TEMP_HOLD", "2s".into()),
            ("TEMP_DELAY", "100ms".into()),
            ("SILENCE", "6s".into()),
        ];
        pairs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }
}

/// The topologies of the demo: name and text.
pub(crate) const TOPOLOGIES: &[(&str, &str)] = &[
    ("wind-farm", include_str!("../../examples/wind-farm/topology.toml")),
    ("cold-chain", include_str!("../../examples/cold-chain/topology.toml")),
    ("irrigation", include_str!("../../examples/irrigation/topology.toml")),
];

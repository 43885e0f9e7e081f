//! A gateway of the lab whose files a test has changed before it really starts.

use std::path::Path;
use std::process::Command;

use pgspan_lab::{Gateway, GatewayOptions, Lab};

/// Lets the lab write the gateway's files, lets `change` change them, and starts the
/// gateway with them. The address of home's endpoint.
pub fn start_gateway(
    lab: &mut Lab,
    program: &Path,
    settings: &[(&str, String)],
    change: impl FnOnce(&Lab, &Gateway),
) -> String {
    let mut options = GatewayOptions::new(program);
    options.settings =
        settings.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
    let gateway = lab.start_gateway(&options, &mut |_| {}).unwrap();
    lab.stop_helper("gateway").unwrap();
    change(lab, &gateway);
    serve(lab, program, &gateway);
    gateway.endpoint("users-writer").unwrap().address.to_string()
}

/// Starts a gateway whose files are written.
pub fn serve(lab: &mut Lab, program: &Path, gateway: &Gateway) {
    let mut command = Command::new(program);
    command.args(["serve", "--config"]).arg(&gateway.config);
    let listen = gateway.endpoints.iter().map(|one| one.listen.clone()).collect();
    lab.start_helper("gateway", &mut command, listen).unwrap();
}

//! config.json's `linux.netDevices`: devices of the host's network that move into the container's.
//!
//! The runtime moves them when the container's process is in its namespaces and before any hook looks at them. What
//! they are when the container has ended is the kernel's matter: physical ones come back, the others are gone. Only if
//! `create` itself fails are they brought back, as if nothing had been tried.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;

use sampan_kernel::links::{Address, Links, MAX_NAME};
use sampan_kernel::process::{self as kernel, Namespaces};
use sampan_oci::runtime::{Linux, NamespaceKind};

use crate::error::{Refused, Step};
use crate::init::namespaces;

/// A device to move.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Device {
    /// Its name on the host.
    pub name: String,
    /// Its name in the container; with `%d` in it, a pattern.
    pub inside: String,
}

/// Checks what is asked for.
///
/// # Errors
/// If a name is none, two devices get the same, or there is no network namespace to move them to.
pub fn plan(linux: &Linux, namespaces: &namespaces::Plan) -> Result<Vec<Device>, Refused> {
    let mut devices: Vec<Device> = Vec::new();
    for (name, wanted) in &linux.net_devices {
        let refuse = |why: String| Err(Refused::Invalid(format!("linux.netDevices `{name}`: {why}")));
        let inside = wanted.name.as_deref().filter(|n| !n.is_empty()).unwrap_or(name);
        if !is_name(name) || name.contains('%') {
            return refuse("this is no device's name".to_owned());
        }
        if !is_name(inside)
            || (inside.contains('%') && (inside.matches('%').count() > 1 || !inside.contains("%d")))
        {
            return refuse(format!("`{inside}` is no device's name"));
        }
        if !inside.contains('%') && devices.iter().any(|d| d.inside == inside) {
            return refuse(format!("another device is called `{inside}` already"));
        }
        devices.push(Device { name: name.clone(), inside: inside.to_owned() });
    }
    if !devices.is_empty() && !namespaces.has(NamespaceKind::Network) {
        return Err(Refused::Invalid(
            "linux.netDevices needs a network namespace of the container's own".to_owned(),
        ));
    }
    Ok(devices)
}

fn is_name(name: &str) -> bool {
    let printable = |b: u8| !b.is_ascii_whitespace() && !matches!(b, b'/' | b':' | 0);
    !matches!(name, "" | "." | "..") && name.len() <= MAX_NAME && name.bytes().all(printable)
}

/// Devices that were moved.
#[derive(Debug, Default)]
pub struct Moved {
    /// Those in the container's namespace, with what they were called and are numbered there.
    devices: Vec<(String, u32, Vec<Address>)>,
    places: Option<Places>,
}

/// Both namespaces.
#[derive(Debug)]
struct Places {
    own: File,
    theirs: File,
    host: Links,
    container: Links,
}

impl Places {
    fn open(pid: i32) -> io::Result<Places> {
        let own = File::open("/proc/self/ns/net")?;
        let theirs = File::open(format!("/proc/{pid}/ns/net"))?;
        let host = Links::open()?;
        // A socket belongs to the namespace that it is opened in.
        kernel::join(theirs.as_fd(), Namespaces::NET)?;
        let container = Links::open();
        kernel::join(own.as_fd(), Namespaces::NET)?;
        Ok(Places { own, theirs, host, container: container? })
    }
}

impl Moved {
    /// Moves devices into the network namespace of a process, with their addresses, and brings them up. Nothing is
    /// done, and no question asked, if there are none.
    ///
    /// # Errors
    /// If one is not there, may not be moved, or its name is taken. Those that were moved are in `self` all the same.
    pub fn move_all(&mut self, devices: &[Device], pid: i32) -> Result<(), Step> {
        if devices.is_empty() {
            return Ok(());
        }
        let places = Places::open(pid).map_err(Step::on(|| "enter the container's network namespace"))?;
        let places = self.places.insert(places);
        for device in devices {
            let moved = move_one(places, device, &mut self.devices);
            moved.map_err(Step::on(|| {
                format!("move the network device `{}` to `{}` in the container", device.name, device.inside)
            }))?;
        }
        Ok(())
    }

    /// Brings the devices back. Returns what could not be.
    pub fn give_back(mut self) -> Vec<Step> {
        let Some(places) = &mut self.places else { return Vec::new() };
        let mut failed = Vec::new();
        for (name, index, addresses) in self.devices.drain(..).rev() {
            let mut back = || -> io::Result<()> {
                places.container.move_to(index, places.own.as_fd(), &name)?;
                let index = places.host.find(&name)?.ok_or(io::ErrorKind::NotFound)?;
                addresses.iter().try_for_each(|address| places.host.add_address(index, address))
            };
            if let Err(step) = back().map_err(Step::on(|| format!("bring back the network device `{name}`")))
            {
                failed.push(step);
            }
        }
        failed
    }
}

fn move_one(
    places: &mut Places,
    device: &Device,
    moved: &mut Vec<(String, u32, Vec<Address>)>,
) -> io::Result<()> {
    let Some(index) = places.host.find(&device.name)? else {
        return Err(io::Error::new(io::ErrorKind::NotFound, "there is no such device"));
    };
    // The kernel would move it under its old name first, and then fail to rename it.
    if places.container.find(&device.inside)?.is_some() {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, "a device of this name is there already"));
    }
    let addresses = places.host.addresses(index)?;
    places.host.move_to(index, places.theirs.as_fd(), &device.inside)?;
    let index = arrived(places, device, index)?;
    moved.push((device.name.clone(), index, addresses.clone()));
    for address in &addresses {
        places.container.add_address(index, address)?;
    }
    places.container.bring_up(index)
}

/// A device's number after its move: mostly the same; another, if that was taken there.
fn arrived(places: &mut Places, device: &Device, index: u32) -> io::Result<u32> {
    if device.inside.contains('%') {
        return Ok(index);
    }
    places.container.find(&device.inside)?.ok_or_else(|| io::ErrorKind::NotFound.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(devices: &str) -> Result<Vec<Device>, String> {
        let linux =
            format!(r#"{{"namespaces":[{{"type":"mount"}},{{"type":"network"}}],"netDevices":{devices}}}"#);
        let linux: Linux = serde_json::from_str(&linux).unwrap();
        plan(&linux, &namespaces::plan(&linux).unwrap()).map_err(|e| e.to_string())
    }

    #[test]
    fn names_are_checked() {
        let device = |name: &str, inside: &str| Device { name: name.into(), inside: inside.into() };
        assert_eq!(check("{}").unwrap(), []);
        let good = check(r#"{"a":{},"b":{"name":"eth0"},"c":{"name":"net%d"}}"#).unwrap();
        assert_eq!(good, [device("a", "a"), device("b", "eth0"), device("c", "net%d")]);
        for (devices, why) in [
            (r#"{"":{}}"#, "no device's name"),
            (r#"{"a/b":{}}"#, "no device's name"),
            (r#"{"a":{"name":".."}}"#, "no device's name"),
            (r#"{"a":{"name":"0123456789abcdef"}}"#, "no device's name"),
            (r#"{"a":{"name":"x%s"}}"#, "no device's name"),
            (r#"{"a":{"name":"x"},"b":{"name":"x"}}"#, "called `x` already"),
        ] {
            let error = check(devices).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
        let linux: Linux =
            serde_json::from_str(r#"{"namespaces":[{"type":"mount"}],"netDevices":{"a":{}}}"#).unwrap();
        assert!(plan(&linux, &namespaces::plan(&linux).unwrap()).is_err());
    }
}

//! Keeps Mesa from complaining of a display that is not there.

/// wgpu asks Vulkan for Wayland surfaces wherever they are offered, and no setting of it prevents that; Mesa's layer that
/// chooses a default GPU then looks for a Wayland display, and prints `error: XDG_RUNTIME_DIR is invalid or not set`
/// where no one is logged in, as on servers. There it has nothing to choose by, unless a variable says so: it is
/// switched off.
///
/// # Safety
/// No other thread may run yet.
pub(super) unsafe fn quieten_mesa() {
    const DISPLAYS: [&str; 3] = ["XDG_RUNTIME_DIR", "WAYLAND_DISPLAY", "DISPLAY"];
    const CHOICES: [&str; 3] = ["MESA_VK_DEVICE_SELECT", "DRI_PRIME", "NODEVICE_SELECT"];
    if DISPLAYS.into_iter().chain(CHOICES).all(|name| std::env::var_os(name).is_none()) {
        // SAFETY: the caller's: nothing reads the environment at the same time.
        unsafe { std::env::set_var("NODEVICE_SELECT", "1") };
    }
}

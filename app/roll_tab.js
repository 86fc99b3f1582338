// The identity of this tab. The name is in the tab's own storage only while it has no page: a reload finds it there, a
// tab that is duplicated does not copy it, so no two tabs ever have the same.
() => {
  const key = "midi-rwkv-tab";
  const stored = (act) => {
    try {
      return act(sessionStorage);
    } catch {
      return null; // the browser keeps nothing for pages: a reload then begins with a copy
    }
  };
  const leave = () => stored((storage) => storage.setItem(key, window.midiRwkvTab));
  const enter = () => {
    const name = stored((storage) => storage.getItem(key));
    stored((storage) => storage.removeItem(key));
    return name;
  };
  const random = () => [...crypto.getRandomValues(new Uint8Array(16))].map((x) => x.toString(16).padStart(2, "0")).join("");
  window.midiRwkvTab = enter() || random();
  addEventListener("pagehide", leave);
  addEventListener("pageshow", enter); // the browser's back button brought the same page again
  document.addEventListener("freeze", leave); // the browser may throw a page away that is not looked at
  document.addEventListener("resume", enter);
  return [window.midiRwkvTab];
}

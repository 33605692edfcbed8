// Service worker: keeps the page and what it has loaded, so that it works again without a network. Newer files win where there is
// one. Storage that is full or forbidden only means that the page needs its network each time.

const CACHE = "priorcodec";
const PAGE = [
  "./", "index.html", "page.css", "coder.js", "container.js", "errors.js", "gic.js", "networks.js", "page.js", "random.js",
  "regions.js", "residual.js", "runtime.js", "semantic.js", "sha256.js", "tables.js", "tiles.js", "worker.js",
  "writer.js",
];

self.addEventListener("install", (event) => {
  self.skipWaiting();
  event.waitUntil(caches.open(CACHE).then((cache) => cache.addAll(PAGE)).catch(() => {}));
});
self.addEventListener("activate", (event) => event.waitUntil(self.clients.claim()));
self.addEventListener("fetch", (event) => {
  const { request } = event;
  if (request.method === "GET" && new URL(request.url).origin === self.location.origin) event.respondWith(answer(event));
});

async function answer(event) {
  const { request } = event;
  const cache = await caches.open(CACHE).catch(() => null);
  try {
    const found = await fetch(request);
    if (found.ok && cache) event.waitUntil(cache.put(request, found.clone()).catch(() => {}));
    return found;
  } catch (error) {
    const kept = await cache?.match(request, { ignoreVary: true });
    if (kept) return kept;
    throw error;
  }
}

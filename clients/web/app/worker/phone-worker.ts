/**
 * Opens the phone page where there is no network. It answers for the page and for the files that the page is made of,
 * as the build lists them, and for nothing else: no answer of the API ever passes through here.
 *
 * The page comes from the server wherever that answers in time, so a version that was taken back is not kept alive by
 * phones. A new version is kept as a whole or not at all, and takes over at once: the files of the one before stay for
 * pages that were opened with it.
 */

declare const self: ServiceWorkerGlobalScope
/** Written in by the build. The first of the files is the page's script. */
declare const __SHELL__: { readonly version: string; readonly files: string[] }

const SHELL = __SHELL__
const PAGE = "/phone"
const CACHE = "phone "

/** Milliseconds to wait for the server before the kept page is shown. */
const PATIENCE = 4000

self.addEventListener("install", (event) => {
  event.waitUntil(keep().then(() => self.skipWaiting()))
})
self.addEventListener("activate", (event) => {
  event.waitUntil(forget().then(tell))
})
self.addEventListener("fetch", (event) => {
  const { request } = event
  const { origin, pathname } = new URL(request.url)
  if (request.method !== "GET" || origin !== self.location.origin) return
  if (request.mode === "navigate") {
    if (pathname === PAGE) event.respondWith(page(request))
  } else if (pathname.startsWith("/assets/") || SHELL.files.includes(pathname)) {
    event.respondWith(caches.match(request).then((kept) => kept ?? fetch(request)))
  }
})

async function keep(): Promise<void> {
  const fresh = await fetch(PAGE, { cache: "no-store" })
  const [script = ""] = SHELL.files
  const ours = fresh.ok && (await fresh.clone().text()).includes(script)
  if (!ours) throw new Error("the page is of another version: from a node that is not renewed yet") // tried again later
  const cache = await caches.open(CACHE + SHELL.version)
  await cache.addAll(SHELL.files)
  await cache.put(PAGE, fresh)
}

/** Keep this version and the one before. */
async function forget(): Promise<void> {
  const mine = CACHE + SHELL.version
  const others = (await caches.keys()).filter((name) => name.startsWith(CACHE) && name !== mine)
  await Promise.all(others.slice(0, -1).map((name) => caches.delete(name)))
}

/** Take over the pages that are open, and tell them which script is the newest: theirs may be another. */
async function tell(): Promise<void> {
  await self.clients.claim()
  for (const client of await self.clients.matchAll()) client.postMessage(SHELL.files[0])
}

async function page(request: Request): Promise<Response> {
  const kept = () => caches.match(PAGE, { cacheName: CACHE + SHELL.version })
  try {
    const fresh = await fetch(request, { signal: AbortSignal.timeout(PATIENCE) })
    return fresh.status < 500 ? fresh : ((await kept()) ?? fresh)
  } catch (error) {
    const found = await kept()
    if (found === undefined) throw error
    return found
  }
}

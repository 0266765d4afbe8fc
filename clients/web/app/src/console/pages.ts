import type { Component } from "vue"

/** A page of the console: drawn for who holds the permission, its code fetched when it is opened. */
export interface ConsolePage {
  /** Its place in the address, and its name in the words (`console.nav`). */
  path: string
  needs: string
  component: () => Promise<{ default: Component }>
}

/** What lets one in: whoever sees other people has something to do here. */
export const ENTRY = "users.read"

/** In the order of the navigation; the first that one may open is where one begins. */
export const PAGES: ConsolePage[] = [
  { path: "board", needs: "calls.board", component: () => import("./board/BoardPage.vue") },
  { path: "calls", needs: "calls.read", component: () => import("./calls/CallsPage.vue") },
  { path: "charts", needs: "calls.statistics", component: () => import("./charts/ChartsPage.vue") },
  { path: "devices", needs: "devices.read", component: () => import("./devices/DevicesPage.vue") },
  { path: "lines", needs: "lines.read", component: () => import("./lines/LinesPage.vue") },
  { path: "channels", needs: "lines.manage", component: () => import("./channels/ChannelsPage.vue") },
  {
    path: "extensions",
    needs: "extensions.manage",
    component: () => import("./extensions/ExtensionsPage.vue"),
  },
  {
    path: "do-not-call",
    needs: "do_not_call.read",
    component: () => import("./do-not-call/DoNotCallPage.vue"),
  },
  { path: "test-numbers", needs: "lines.manage", component: () => import("./test-numbers/TestNumbersPage.vue") },
  { path: "users", needs: "users.read", component: () => import("./users/UsersPage.vue") },
  { path: "keys", needs: "api_keys.manage", component: () => import("./keys/KeysPage.vue") },
  { path: "audit", needs: "audit.read", component: () => import("./audit/AuditPage.vue") },
]

import type { Session, Team } from "@dialdesk/sdk"

const MOST_PAGES = 20

/** All teams within reach, by name. */
export async function readTeams(session: Session): Promise<Team[]> {
  const teams: Team[] = []
  for (let page = 1; page <= MOST_PAGES; page++) {
    const found = await session.ask("GET /api/v1/admin/teams", { query: { page, pageSize: 100 } })
    teams.push(...found.teams)
    if (teams.length >= found.total) break
  }
  return teams
}

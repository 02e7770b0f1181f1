// Ask from Node.js through `pg`: make one `ticketStates(url)` in the process, then `await states.atRead(4711)`.
"use strict";

const { Pool } = require("pg");

const DEADLINE = 250; // milliseconds until an answer is taken for none

function ticketStates(url) {
  const pool = new Pool({
    connectionString: url,
    max: 5,
    connectionTimeoutMillis: 2000,
    statement_timeout: 200,
    query_timeout: 1000,
  });
  // Without a listener, a restart of PostgreSQL would end the process.
  pool.on("error", (error) => console.warn(`a connection broke while it was idle: ${error.message}`));

  async function ask(ticketId) {
    try {
      const { rows } = await pool.query("SELECT freescout_ticket_state($1) AS state", [ticketId]);
      if (rows[0].state === "none") {
        console.info(`ticket ${ticketId} reads none: the service does not vouch for it`);
      }
      return rows[0].state;
    } catch (error) {
      console.warn(`ticket ${ticketId} reads none: ${error.code ?? ""} ${error.message}`);
      return "none";
    }
  }

  // Resolves to active, pending, closed, spam or none, within the deadline; never rejects.
  function atRead(ticketId) {
    return new Promise((resolve) => {
      const deadline = setTimeout(() => {
        console.warn(`ticket ${ticketId} reads none: no answer within ${DEADLINE} ms`);
        resolve("none");
      }, DEADLINE);
      ask(ticketId).then((state) => {
        clearTimeout(deadline);
        resolve(state);
      });
    });
  }

  return { atRead, close: () => pool.end() };
}

module.exports = { ticketStates };

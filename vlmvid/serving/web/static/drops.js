// Files that are dropped on the page.

/** A file dropped anywhere goes to `bring(file)`; `sheet` shows that it may be. */
export function listenToDrops(sheet, bring) {
  const hasFile = (event) => event.dataTransfer?.types.includes("Files");
  addEventListener("dragover", (event) => {
    if (!hasFile(event)) return;
    event.preventDefault();
    sheet.hidden = false;
  });
  addEventListener("dragleave", (event) => {
    if (event.relatedTarget === null) sheet.hidden = true;
  });
  addEventListener("drop", (event) => {
    sheet.hidden = true;
    if (!hasFile(event)) return;
    event.preventDefault();
    if (event.dataTransfer.files.length) bring(event.dataTransfer.files[0]);
  });
}

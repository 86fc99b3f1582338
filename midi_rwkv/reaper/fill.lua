-- The second part of midi-rwkv's script for REAPER: asks what is wished, has midi-rwkv write it, and makes takes of it.

local TITLE = "midi-rwkv"
local LEAD = PPQ // 24 -- ticks: midi-rwkv counts a note that comes earlier than a beat by less than this to that beat
local START_SECONDS = 60 -- after which a midi-rwkv that has said nothing is given up
local DUPLICATE_TAKE, UNPOOL_TAKE, ITEM_GROUPING = 40639, 41613, 1156 -- actions of the main section
local FIELDS = { -- of the dialog: name, caption, default
  { "candidates", "Candidates (a take each)", "3" },
  { "temperature", "Temperature", "0.85" },
  { "style", "Style", "" },
  { "keep", "Keep (rhythm; pitches; contour; C1-B2)", "" },
  { "chords", "Chords (Am F | C G/B)", "" },
  { "instruments", "Instruments (2=Drums; 3=Bass)", "" },
  { "other", "Other options of midi-rwkv infill", "" },
}
local job -- the fill that is being written, or nil: {path of its files without ending, targets, bars, candidates, began}

-- The bytes of a file, or nil if there is none.
local function read(path)
  local file = io.open(path, "rb")
  local data = file and file:read("a")
  if file then file:close() end
  return data
end

local function write(path, data)
  local file, why = io.open(path, "wb")
  if not (file and file:write(data) and file:close()) then refuse("Cannot write %s: %s", path, why or "is the disk full?") end
end

-- JSON text to a Lua value. Nothing here needs what texts say, so that escapes in them are dropped.
local function parse_json(text)
  text = text:gsub("\\.", "")
  local at = 1
  local function take(pattern)
    local _, stop, found = text:find("^%s*(" .. pattern .. ")%s*", at)
    at = stop and stop + 1 or at
    return found
  end
  local function value()
    local opening, found = take("[%[{]"), {}
    if not opening then
      local word = take('"[^"]*"') or take("[%w.+-]+") or error("no JSON at byte " .. at)
      return tonumber(word) or word:match('^"(.*)"$') or word
    end
    while not take("[%]}]") do
      local item = value()
      if opening == "{" and take(":") then found[item] = value() else found[#found + 1] = item end
      take(",")
    end
    return found
  end
  return value()
end

-- A new take of an item: a copy of `take` with all that it has, in no pool with another.
local function copy_of(take, item)
  local count = R.CountTakes(item)
  R.SelectAllMediaItems(project, false)
  R.SetMediaItemSelected(item, true)
  R.SetActiveTake(take)
  R.Main_OnCommandEx(DUPLICATE_TAKE, 0, project)
  if R.CountTakes(item) ~= count + 1 then refuse("REAPER copies no take of %q; is the item locked?", R.GetTakeName(take)) end
  local copy = R.GetTake(item, count)
  R.SetActiveTake(copy)
  R.Main_OnCommandEx(UNPOOL_TAKE, 0, project)
  return copy
end

-- Deletes the pitch bends in a span on the channels that are true in `free`: they belonged to notes that went. What was in
-- force at the span's end comes back there, if the item goes on.
local function straighten(take, span, free, goes_on)
  local at_start, at_end, gone, centre = {}, {}, {}, { 0, 64 }
  for index = 0, select(3, R.MIDI_CountEvts(take)) - 1 do
    local _, _, _, ppq, message, channel, low, high = R.MIDI_GetCC(take, index)
    local tick = ticks_at(R.MIDI_GetProjTimeFromPPQPos(take, ppq))
    if message == 0xE0 and free[channel] and tick < span[2] then
      at_end[channel] = { low, high }
      if tick < span[1] then at_start[channel] = at_end[channel] else gone[#gone + 1] = index end
    end
  end
  for i = #gone, 1, -1 do R.MIDI_DeleteCC(take, gone[i]) end
  local function set(tick, channel, bend)
    local ppq = round(R.MIDI_GetPPQPosFromProjTime(take, seconds_at(tick)))
    R.MIDI_InsertCC(take, false, false, ppq, 0xE0, channel, bend[1], bend[2])
  end
  for channel, bend in pairs(at_end) do
    local before = at_start[channel] or centre
    if before[1] ~= 0 or before[2] ~= 64 then set(span[1], channel, centre) end
    if goes_on and (bend[1] ~= 0 or bend[2] ~= 64) then set(span[2], channel, bend) end
  end
end

-- Makes a copy of a target's take a candidate, whose notes are `rows` of a JSON song: those that went are deleted from
-- the target's span, the others keep their events, and those that came are inserted.
local function fill(take, target, rows)
  local whole, key, from = extent(target.item), "%d %d %d %d", target.span[1]
  if math.abs(target.beats[1] - from) <= NEAR then from = from - LEAD end
  local function inside(n) return n.on >= math.max(from, whole[1]) and n.on < math.min(target.span[2], whole[2]) end
  local new, there, gone, free, used, channel = {}, {}, {}, {}, {}, 0
  for _, row in ipairs(rows) do
    local on = round(row[1] * PPQ)
    local off = on + round(row[3] * PPQ)
    new[key:format(on, off, row[2], row[4])] = { on = on, off = off, pitch = row[2], velocity = row[4] }
  end
  for _, n in ipairs(target.part.notes) do
    local name, twin = key:format(n.on, n.off, n.pitch, n.velocity), n
    there[name] = true
    while twin do
      if twin.take == target.take then
        used[twin.channel] = (used[twin.channel] or 0) + 1
        if used[twin.channel] > (used[channel] or 0) then channel = twin.channel end
        if inside(n) then
          if not new[name] then gone[#gone + 1] = twin.index end
          free[twin.channel] = free[twin.channel] ~= false and not new[name]
        end
      end
      twin = twin.twin
    end
  end
  straighten(take, target.span, free, target.span[2] < whole[2])
  R.MIDI_DisableSort(take)
  table.sort(gone)
  for i = #gone, 1, -1 do R.MIDI_DeleteNote(take, gone[i]) end -- the last first: the others keep their numbers
  for name, n in pairs(new) do
    if not there[name] and inside(n) then
      local start = R.MIDI_GetPPQPosFromProjTime(take, seconds_at(n.on))
      local stop = R.MIDI_GetPPQPosFromProjTime(take, seconds_at(math.min(n.off, whole[2])))
      R.MIDI_InsertNote(take, false, false, round(start), round(stop), channel, n.pitch, n.velocity, true)
    end
  end
  R.MIDI_Sort(take)
end

local function path(ending) return job.path .. ending end

local function state_of(target) -- changes if its item or take does
  if not target.item then return R.ValidatePtr2(project, target.track, "MediaTrack*") end
  if not R.ValidatePtr2(project, target.take, "MediaItem_Take*") then return nil end
  return table.concat(extent(target.item), " ") .. select(2, R.MIDI_GetAllEvts(target.take))
end

local function fill_target(target, songs)
  local takes = {}
  if not target.item then
    target.item = R.CreateNewMIDIItemInProj(target.track, seconds_at(target.span[1]), seconds_at(target.span[2]), false)
    target.take = R.GetActiveTake(target.item)
    takes[1] = target.take
  end
  for k = #takes + 1, #songs do takes[k] = copy_of(target.take, target.item) end
  for k, take in ipairs(takes) do
    fill(take, target, songs[k].tracks[target.part.at].notes)
    R.GetSetMediaItemTakeInfo_String(take, "P_NAME", ("%s - fill %d"):format(target.part.name, k), true)
  end
  R.SetActiveTake(takes[1])
  R.UpdateItemInProject(target.item)
end

-- Reads the candidates and makes them takes, in one undo block.
local function place()
  local songs, selection, name = {}, {}, "midi-rwkv: fill bars " .. job.bars
  local is_grouping = R.GetToggleCommandState(ITEM_GROUPING) == 1
  for k = 1, job.candidates do
    songs[k] = parse_json(read(path(job.candidates > 1 and ("-%d.json"):format(k) or ".json")))
  end
  for _, target in ipairs(job.targets) do
    if state_of(target) ~= target.state then refuse("The items were changed meanwhile, and stay so; run midi-rwkv again.") end
  end
  for i = 0, R.CountSelectedMediaItems(project) - 1 do selection[i + 1] = R.GetSelectedMediaItem(project, i) end
  R.Undo_BeginBlock2(project)
  R.PreventUIRefresh(1)
  if is_grouping then R.Main_OnCommandEx(ITEM_GROUPING, 0, project) end -- else takes of grouped items are copied too
  local done, why = pcall(function()
    for _, target in ipairs(job.targets) do fill_target(target, songs) end
  end)
  if is_grouping then R.Main_OnCommandEx(ITEM_GROUPING, 0, project) end
  R.SelectAllMediaItems(project, false)
  for _, item in ipairs(selection) do R.SetMediaItemSelected(item, true) end
  R.PreventUIRefresh(-1)
  R.Undo_EndBlock2(project, name, -1)
  R.UpdateArrange()
  if done then return end
  if R.Undo_CanUndo2(project) == name then R.Undo_DoUndo2(project) end
  error(why, 0)
end

-- Forgets the fill. midi-rwkv, if it still runs, ends and deletes its files itself.
local function leave()
  if not job then return end
  if read(path(".done")) or not job.began then
    for _, ending in ipairs({ ".mid", ".job", ".log", ".done", ".json" }) do os.remove(path(ending)) end
    for k = 1, job.candidates do os.remove(path(("-%d.json"):format(k))) end
  else
    write(path(".cancel"), "")
  end
  job = nil
  gfx.quit()
end

local function guarded(action) -- shows an error in one line, and leaves
  return function()
    local done, why = pcall(action)
    if done then return end
    leave()
    R.ShowMessageBox(type(why) == "table" and why.said or "This is a bug in midi-rwkv's script: " .. why, TITLE, 0)
  end
end

local function draw(log)
  local done, total = log:match(".*%f[%d](%d+)/(%d+) cells")
  gfx.set(0.9, 0.9, 0.9, 1)
  gfx.x, gfx.y = 12, 12
  gfx.drawstr(done and ("%d of %d bars written"):format(done, total) or "midi-rwkv reads the project ...")
  if done then gfx.rect(12, 36, (gfx.w - 24) * done // total, 8, 1) end
  gfx.x, gfx.y = 12, 56
  gfx.drawstr("Esc, or closing this window, cancels.")
  gfx.update()
end

local function poll()
  local key = gfx.getchar()
  if key == 27 or key < 0 then return leave() end
  local code, log = read(path(".done")), read(path(".log"))
  if code == "0" then
    place()
    return leave()
  end
  if code then refuse("%s", log:match("([^\r\n]+)%s*$") or "midi-rwkv failed without a word.") end
  if not log and R.time_precise() > job.began + START_SECONDS then refuse("%s did not start midi-rwkv.", PYTHON) end
  draw(log or "")
  R.defer(guarded(poll))
end

-- The dialog: what the user wishes, as lines of a job, and the number of candidates; nil if it was closed.
local function ask()
  local captions, values, lines = {}, {}, {}
  for i, field in ipairs(FIELDS) do
    captions[i] = field[2]
    values[i] = R.HasExtState(TITLE, field[1]) and R.GetExtState(TITLE, field[1]) or field[3]
  end
  captions[#captions + 1] = "extrawidth=200,separator=\n"
  local done, text = R.GetUserInputs(TITLE, #FIELDS, table.concat(captions, ","), table.concat(values, "\n"))
  if not done then return nil end
  for value in (text .. "\n"):gmatch("([^\n]*)\n") do
    local name = FIELDS[#lines + 1][1]
    lines[#lines + 1] = name .. " " .. value
    R.SetExtState(TITLE, name, value, true)
  end
  return lines, tonumber(lines[1]:match("%d+")) or 1
end

-- What all tracks are asked for, as `--bars` and `--tracks` take it, and the last measure of it. The targets learn the
-- beats that they are asked for and their state. `count` is the number of tracks with notes.
local function request_of(targets, measures, count)
  local asked, bars, tracks, reach = {}, nil, {}, 1
  for _, target in ipairs(targets) do
    local text, beats, measure = bars_of(measures, target.span)
    target.beats, target.state, reach = beats, state_of(target), math.max(reach, measure)
    local own = asked[target.part] or {}
    asked[target.part] = own
    if not own[text] then own[text], own[#own + 1] = true, text end
  end
  for part, own in pairs(asked) do
    table.sort(own)
    local text = table.concat(own, ",")
    if bars and text ~= bars then refuse("Select the same bars on all tracks: here are bars %s, there bars %s.", bars, text) end
    bars = text
    if part.at <= count then tracks[#tracks + 1] = part.at end
  end
  return bars, table.concat(tracks, ","), reach
end

-- Writes the song and the job into REAPER's folder and starts midi-rwkv.
local function start(song, lines)
  write(path(".mid"), song)
  write(path(".job"), table.concat(lines, "\n"))
  local command = ('"%s" -m midi_rwkv reaper --run "%s"'):format(PYTHON, path(".job"))
  if not R.ExecProcess(command, R.GetOS():find("Win") and -2 or -1) then refuse("REAPER could not run %s", command) end
  job.began = R.time_precise()
  gfx.init(TITLE, 320, 84)
  R.atexit(leave)
  R.defer(guarded(poll))
end

local function main()
  project = R.EnumProjects(-1)
  if not R.file_exists(PYTHON) then refuse("There is no %s; run midi-rwkv reaper --install --overwrite.", PYTHON) end
  local targets = selected()
  local lines, candidates = ask()
  if not lines then return end
  local parts, count = read_tracks(targets)
  local last = 1
  for _, target in ipairs(targets) do last = math.max(last, target.span[2]) end
  for i, part in ipairs(parts) do
    for _, n in ipairs(part.notes) do last = math.max(last, n.off) end
    local known = i > count and "new" or part.program or "-"
    lines[#lines + 1] = ("track %d %s %s"):format(part.number, known, part.name:gsub("%c", " "))
  end
  local measures = read_measures(last - 1)
  local bars, tracks, reach = request_of(targets, measures, count)
  lines[#lines + 1] = "bars " .. bars
  lines[#lines + 1] = "fill " .. tracks
  local folder = R.GetResourcePath() .. "/" .. TITLE
  R.RecursiveCreateDirectory(folder, 0)
  local name = "project-" .. R.genGuid(""):match("%x+"):lower()
  job = { path = folder .. "/" .. name, targets = targets, bars = bars, candidates = candidates }
  start(midi_file(parts, count, measures, reach), lines)
end

guarded(main)()

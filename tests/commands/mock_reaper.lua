-- A small REAPER for the tests: `run(spec, script, folder)` loads a project, runs a script in it with all that it defers,
-- and returns what became of the project as JSON. Every function checks the number and types of its arguments as
-- ReaScript's documentation has them; one that is not here is an error, as is a change outside an undo block.
--
-- spec: markers {qn, bpm, num, den, linear}, tracks {name, selected, items}, time {from, to} in quarters, inputs of the
-- dialog by name or false, cancel ("start" or "cells"), pool, grouping, meddle (a note is deleted meanwhile), copy (a path
-- without ending, to which the song and the job are copied), broken (nothing can be started).
-- An item: from, to (quarters), selected, muted, loop, group, locked, offset (quarters), length of its source (quarters), res
-- (ticks per quarter), notes {quarters from the source's start, quarters, pitch, velocity, channel, muted}, ccs {ticks,
-- message, channel, two data bytes}.

local M = {}
local spec, project, state, undo_depth, sorting

local function handle(kind) return function(fields) return setmetatable(fields, { kind = kind, __name = kind }) end end
local Project, Track, Item, Take, Source =
  handle("ReaProject*"), handle("MediaTrack*"), handle("MediaItem*"), handle("MediaItem_Take*"), handle("PCM_source*")

local function is(kind) return function(v) return type(v) == "table" and getmetatable(v).kind == kind end end
local CHECKS = {
  project = function(v) return v == 0 or v == project end,
  track = is("MediaTrack*"), item = is("MediaItem*"), take = is("MediaItem_Take*"), source = is("PCM_source*"),
  pointer = function(v) return type(v) == "table" end,
  bool = function(v) return type(v) == "boolean" end,
  num = function(v) return type(v) == "number" end,
  int = function(v) return type(v) == "number" and math.tointeger(v) ~= nil end,
  str = function(v) return type(v) == "string" end,
  fn = function(v) return type(v) == "function" end,
}

local function strict(name)
  return setmetatable({}, { __index = function(_, key) error(("there is no %s.%s"):format(name, tostring(key)), 2) end })
end
reaper = strict("reaper")

-- Defines reaper.NAME; params: kinds of arguments, `?` for those that may be left out.
local function api(name, params, body)
  local kinds = {}
  for kind in params:gmatch("%S+") do kinds[#kinds + 1] = kind end
  rawset(reaper, name, function(...)
    local given = select("#", ...)
    if given > #kinds then error(("%s takes %d arguments, got %d"):format(name, #kinds, given), 2) end
    for i, kind in ipairs(kinds) do
      local value = select(i, ...)
      local optional = kind:sub(-1) == "?"
      local good = i <= given and CHECKS[kind:gsub("%?", "")](value) or optional and value == nil
      if not good then error(("%s: argument %d must be %s, got %s"):format(name, i, kind, tostring(value)), 2) end
    end
    return body(...)
  end)
end
local function changing(name, params, body)
  api(name, params, function(...)
    if undo_depth < 1 then error(name .. " outside an undo block", 3) end
    return body(...)
  end)
end

-- Time: the tempo is constant between markers; quarters count from the start of the project.
local function segments()
  local found, time = {}, 0
  for i, m in ipairs(spec.markers) do
    if i > 1 then time = time + (m.qn - spec.markers[i - 1].qn) * 60 / spec.markers[i - 1].bpm end
    found[i] = { qn = m.qn, time = time, bpm = m.bpm }
  end
  return found
end
local function to_time(qn)
  local at
  for _, s in ipairs(segments()) do if s.qn <= qn or not at then at = s end end
  return at.time + (qn - at.qn) * 60 / at.bpm
end
local function to_qn(time)
  local at
  for _, s in ipairs(segments()) do if s.time <= time + 1e-9 or not at then at = s end end
  return at.qn + (time - at.time) * at.bpm / 60
end
local function measure(number)
  local start = 0
  for i = 0, number do
    local metre, cut
    for _, m in ipairs(spec.markers) do
      if m.num and m.qn <= start + 1e-9 then metre = m end
    end
    local stop = start + 4 * metre.num / metre.den
    for _, m in ipairs(spec.markers) do
      if m.num and m.qn > start + 1e-9 and m.qn < stop - 1e-9 then cut = cut or m.qn end
    end
    if i == number then return start, cut or stop, metre end
    start = cut or stop
  end
end
api("TimeMap_timeToQN_abs", "project num", function(_, t) return to_qn(t) end)
api("TimeMap_QNToTime_abs", "project num", function(_, qn) return to_time(qn) end)
api("TimeMap_GetMeasureInfo", "project int", function(_, number)
  local start, stop, metre = measure(number)
  return to_time(start), start, stop, metre.num, metre.den, metre.bpm
end)
api("CountTempoTimeSigMarkers", "project", function() return #spec.markers end)
api("GetTempoTimeSigMarker", "project int", function(_, i)
  local m = spec.markers[i + 1]
  if not m then return false end
  return true, to_time(m.qn), 0, 0.0, m.bpm, m.num or -1, m.den or -1, m.linear or false
end)

-- The project.
api("EnumProjects", "int str?", function(i) return i == -1 and project or nil, "" end)
api("CountTracks", "project", function() return #project.tracks end)
api("GetTrack", "project int", function(_, i) return project.tracks[i + 1] end)
api("GetTrackName", "track str?", function(t) return true, t.name end)
api("CountTrackMediaItems", "track", function(t) return #t.items end)
api("GetTrackMediaItem", "track int", function(t, i) return t.items[i + 1] end)
api("GetMediaItem_Track", "item", function(item) return item.track end)
local function chosen(list)
  local found = {}
  for _, thing in ipairs(list) do if thing.selected then found[#found + 1] = thing end end
  return found
end
local function all_items()
  local found = {}
  for _, t in ipairs(project.tracks) do for _, item in ipairs(t.items) do found[#found + 1] = item end end
  return found
end
api("CountSelectedTracks", "project", function() return #chosen(project.tracks) end)
api("GetSelectedTrack", "project int", function(_, i) return chosen(project.tracks)[i + 1] end)
api("CountSelectedMediaItems", "project", function() return #chosen(all_items()) end)
api("GetSelectedMediaItem", "project int", function(_, i) return chosen(all_items())[i + 1] end)
api("SelectAllMediaItems", "project bool", function(_, on) for _, i in ipairs(all_items()) do i.selected = on end end)
api("SetMediaItemSelected", "item bool", function(item, on) item.selected = on end)
api("GetSet_LoopTimeRange2", "project bool bool num num bool", function(_, set)
  assert(not set, "the time selection is the user's")
  local range = spec.time or { 0, 0 }
  return to_time(range[1]), to_time(range[2])
end)
api("GetMediaItemInfo_Value", "item str", function(item, name)
  local from, to = to_time(item.from), to_time(item.to)
  local values = { D_POSITION = from, D_LENGTH = to - from, B_LOOPSRC = item.loop and 1 or 0, B_MUTE = item.muted and 1 or 0 }
  return (values[name] or error("no item value " .. name)) + 0.0
end)
api("ValidatePtr2", "project pointer str", function(_, thing, kind)
  local there = is(kind)(thing) and not thing.gone
  return there
end)
api("UpdateItemInProject", "item", function() end)
api("UpdateArrange", "", function() end)
api("PreventUIRefresh", "int", function(n) state.frozen = state.frozen + n end)
api("Undo_BeginBlock2", "project", function() undo_depth = undo_depth + 1 end)
api("Undo_EndBlock2", "project str int", function(_, name)
  undo_depth = undo_depth - 1
  state.undo[#state.undo + 1] = name
end)
api("Undo_CanUndo2", "project", function() return state.undo[#state.undo] end)
api("Undo_DoUndo2", "project", function()
  state.undo[#state.undo] = nil
  return 1
end)

-- Takes.
local function start_of(take) return take.item.from - take.offset end
api("GetActiveTake", "item", function(item) return item.active end)
api("CountTakes", "item", function(item) return #item.takes end)
api("GetTake", "item int", function(item, i) return item.takes[i + 1] end)
api("GetTakeName", "take", function(take) return take.name end)
api("TakeIsMIDI", "take", function(take) return take.source.notes ~= nil end)
changing("SetActiveTake", "take", function(take) take.item.active = take end)
changing("GetSetMediaItemTakeInfo_String", "take str str bool", function(take, name, value, set)
  assert(name == "P_NAME" and set)
  take.name = value
  return true, value
end)
api("GetMediaItemTakeInfo_Value", "take str", function(_, name)
  assert(name == "D_PLAYRATE")
  return 1.0
end)
api("GetMediaItemTake_Source", "take", function(take) return take.source end)
api("GetMediaSourceLength", "source", function(source) return source.length, true end)
changing("CreateNewMIDIItemInProj", "track num num bool?", function(track, from, to, in_quarters)
  assert(not in_quarters)
  local item = Item({ track = track, from = to_qn(from), to = to_qn(to), takes = {} })
  local source = Source({ res = 960, length = item.to - item.from, notes = {}, ccs = {} })
  item.takes[1] = Take({ item = item, offset = 0, name = "", source = source })
  item.active = item.takes[1]
  track.items[#track.items + 1] = item
  return item
end)
local function copied(source)
  local notes = {}
  for i, n in ipairs(source.notes) do notes[i] = { table.unpack(n, 1, 6) } end
  return Source({ res = source.res, length = source.length, notes = notes, ccs = { table.unpack(source.ccs) } })
end
local COMMANDS = {
  [40639] = function() -- Take: Duplicate active take; grouped items' too
    local groups = {}
    for _, item in ipairs(chosen(all_items())) do groups[item.group or item] = true end
    for _, item in ipairs(all_items()) do
      if not item.locked and (item.selected or state.grouping and groups[item.group or item]) then
        local take = item.active
        local source = spec.pool and take.source or copied(take.source)
        item.active = Take({ item = item, offset = take.offset, name = take.name, source = source })
        item.takes[#item.takes + 1] = item.active
      end
    end
  end,
  [41613] = function() -- Item: Remove active take from MIDI source data pool
    for _, item in ipairs(chosen(all_items())) do item.active.source = copied(item.active.source) end
  end,
  [1156] = function() state.grouping = not state.grouping end, -- Options: Toggle item grouping enabled
}
changing("Main_OnCommandEx", "int int project", function(command) COMMANDS[command]() end)
api("GetToggleCommandState", "int", function(command)
  assert(command == 1156)
  return state.grouping and 1 or 0
end)

-- MIDI.
local function sort(source) table.sort(source.notes, function(a, b) return a[1] < b[1] or a[1] == b[1] and a[3] < b[3] end) end
api("MIDI_CountEvts", "take", function(take) return 1, #take.source.notes, #take.source.ccs, 0 end)
api("MIDI_GetNote", "take int", function(take, i)
  local n = take.source.notes[i + 1]
  if not n then return false end
  return true, false, n[6] or false, n[1] + 0.0, n[1] + n[2] + 0.0, n[5], n[3], n[4]
end)
api("MIDI_GetCC", "take int", function(take, i)
  local cc = take.source.ccs[i + 1]
  if not cc then return false end
  return true, false, false, cc[1], cc[2], cc[3], cc[4], cc[5]
end)
api("MIDI_GetAllEvts", "take str?", function(take)
  local text = {}
  for i, n in ipairs(take.source.notes) do text[i] = table.concat({ table.unpack(n, 1, 5) }, ",") end
  return true, table.concat(text, ";")
end)
changing("MIDI_DisableSort", "take", function() sorting = false end)
changing("MIDI_Sort", "take", function(take)
  sorting = true
  sort(take.source)
end)
changing("MIDI_DeleteNote", "take int", function(take, i) return table.remove(take.source.notes, i + 1) ~= nil end)
changing("MIDI_DeleteCC", "take int", function(take, i) return table.remove(take.source.ccs, i + 1) ~= nil end)
changing("MIDI_InsertCC", "take bool bool num int int int int", function(take, _, _, ppq, message, chan, low, high)
  assert(message & 0x8F == 0x80 and chan >= 0 and chan < 16 and low >= 0 and low < 128 and high >= 0 and high < 128)
  table.insert(take.source.ccs, { ppq, message, chan, low, high })
  return true
end)
changing("MIDI_InsertNote", "take bool bool num num int int int bool?", function(take, _, muted, from, to, chan, pitch, vel, no_sort)
  assert(to > from and chan >= 0 and chan < 16 and pitch >= 0 and pitch < 128 and vel > 0 and vel < 128)
  table.insert(take.source.notes, { from, to - from, pitch, vel, chan, muted })
  if sorting and not no_sort then sort(take.source) end
  return true
end)
api("MIDI_GetProjTimeFromPPQPos", "take num", function(take, ppq) return to_time(start_of(take) + ppq / take.source.res) end)
api("MIDI_GetPPQPosFromProjTime", "take num", function(take, t) return (to_qn(t) - start_of(take)) * take.source.res end)
api("MIDI_GetPPQPosFromProjQN", "take num", function(take, qn) return (qn - start_of(take)) * take.source.res end)

-- The user, and the machine.
local stored, deferred, at_exit = {}, {}, {}
api("HasExtState", "str str", function(section, key) return stored[section .. key] ~= nil end)
api("GetExtState", "str str", function(section, key) return stored[section .. key] or "" end)
api("SetExtState", "str str str bool", function(section, key, value) stored[section .. key] = value end)
api("GetUserInputs", "str int str str", function(_, count, captions, values)
  local shown = {}
  for caption in captions:gmatch("[^,]+") do shown[#shown + 1] = caption end
  assert(count <= 16 and #shown == count + 2 and shown[#shown]:find("separator=\n", 1, true), "captions")
  if spec.inputs == false then return false, values end
  local fields, at = {}, 0
  for value in (values .. "\n"):gmatch("([^\n]*)\n") do
    at = at + 1
    local word = shown[at]:match("%a+"):lower()
    fields[at] = spec.inputs[word] or value
  end
  assert(at == count, "a value for each caption")
  return true, table.concat(fields, "\n")
end)
api("ShowMessageBox", "str str int", function(text) state.messages[#state.messages + 1] = text return 1 end)
api("ExecProcess", "str int", function(command, timeout)
  assert(timeout == -1 or timeout == -2, "REAPER would stand still")
  local song = command:match('"([^"]*)%.job"$')
  for _, ending in ipairs(spec.copy and { "mid", "job" } or {}) do
    assert(os.execute(("cp '%s.%s' '%s.%s'"):format(song, ending, spec.copy, ending)))
  end
  if spec.broken then return nil end
  assert(os.execute(command .. " > /dev/null 2>&1 &"))
  state.started = state.started + 1
  return "0\n"
end)
api("GetOS", "", function() return "Other" end)
api("GetResourcePath", "", function() return spec.folder end)
api("RecursiveCreateDirectory", "str int", function(path) return os.execute(("mkdir -p '%s'"):format(path)) and 1 or 0 end)
api("file_exists", "str", function(path) return os.execute(("test -r '%s'"):format(path)) == true end)
api("genGuid", "str?", function() return ("{%08X-0000}"):format(math.random(0, 0xFFFFFFFF)) end)
api("time_precise", "", function() return os.time() + 0.0 end)
api("atexit", "fn", function(f) at_exit[#at_exit + 1] = f end)
api("defer", "fn", function(f) deferred[#deferred + 1] = f end)

gfx = strict("gfx")
for name, value in pairs({ x = 0, y = 0, w = 0, h = 0 }) do rawset(gfx, name, value) end
rawset(gfx, "init", function(_, w, h) gfx.w, gfx.h, state.window = w, h, true end)
rawset(gfx, "quit", function() state.window = false end)
rawset(gfx, "update", function() end)
rawset(gfx, "set", function() end)
rawset(gfx, "rect", function(x, y, w, h) assert(x and y and w >= 0 and h > 0) end)
rawset(gfx, "drawstr", function(text) if text:find("bars written") then state.progress = text end end)
rawset(gfx, "getchar", function()
  if spec.cancel == "start" then return -1 end
  return spec.cancel == "cells" and state.progress and 27 or 0
end)

local function json(value)
  if type(value) == "string" then return '"' .. value:gsub('[\\"]', "\\%0"):gsub("\n", "\\n") .. '"' end
  if math.type(value) == "float" then return ("%.17g"):format(value) end
  if type(value) ~= "table" then return tostring(value) end
  local parts = {}
  if #value > 0 or next(value) == nil then
    for i, item in ipairs(value) do parts[i] = json(item) end
    return "[" .. table.concat(parts, ",") .. "]"
  end
  for key, item in pairs(value) do parts[#parts + 1] = json(key) .. ":" .. json(item) end
  return "{" .. table.concat(parts, ",") .. "}"
end

local function told()
  local tracks = {}
  for t, track in ipairs(project.tracks) do
    tracks[t] = {}
    for i, item in ipairs(track.items) do
      local takes, active = {}, 0
      for k, take in ipairs(item.takes) do
        local notes = {}
        for j, n in ipairs(take.source.notes) do
          notes[j] = { start_of(take) + n[1] / take.source.res, n[2] / take.source.res, n[3], n[4], n[5] }
        end
        takes[k] = { name = take.name, notes = notes, ccs = take.source.ccs }
        if take == item.active then active = k end
      end
      tracks[t][i] = { from = item.from, to = item.to, takes = takes, active = active, selected = item.selected or false }
    end
  end
  return json({ tracks = tracks, undo = state.undo, messages = state.messages, started = state.started,
    progress = state.progress or "", window = state.window or false, grouping = state.grouping or false })
end

function M.run(given, script, folder)
  spec, project, undo_depth, sorting = given, Project({ tracks = {} }), 0, true
  spec.folder = folder
  state = { undo = {}, messages = {}, frozen = 0, started = 0, grouping = spec.grouping }
  for t, track in ipairs(spec.tracks) do
    project.tracks[t] = Track({ name = track.name, selected = track.selected, items = {} })
    for i, item in ipairs(track.items) do
      item.track, item.notes = project.tracks[t], item.notes or {}
      local res = item.res or 960
      for _, n in ipairs(item.notes) do n[1], n[2] = math.floor(n[1] * res + 0.5), math.floor(n[2] * res + 0.5) end
      local source = Source({ res = res, length = item.length or item.to - item.from, notes = item.notes, ccs = item.ccs or {} })
      item.active = Take({ item = item, offset = item.offset or 0, name = track.name, source = source })
      item.takes = { item.active }
      project.tracks[t].items[i] = Item(item)
      sort(source)
    end
  end
  dofile(script)
  local until_time = os.time() + 100
  while #deferred > 0 do
    assert(os.time() < until_time, "the script goes on for ever")
    os.execute("sleep 0.05")
    if spec.meddle then
      spec.meddle = nil
      table.remove(project.tracks[1].items[1].takes[1].source.notes, 1)
    end
    local now = deferred
    deferred = {}
    for _, f in ipairs(now) do f() end
  end
  for _, f in ipairs(at_exit) do f() end
  assert(undo_depth == 0 and state.frozen == 0 and sorting and not state.window, "something is left open")
  return told()
end

return M
